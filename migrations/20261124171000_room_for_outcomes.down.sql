-- Partitions that are made from now on; those that are there keep their room.
CREATE OR REPLACE FUNCTION ensure_partitions(around timestamptz DEFAULT clock_timestamp()) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    made integer := 0;
    week timestamptz;
    parent text;
    child text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('im-dispatcher partitions'));
    FOR i IN -1..4 LOOP
        week := date_trunc('week', around AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + i * interval '7 days';
        FOREACH parent IN ARRAY ARRAY['messages', 'attempts'] LOOP
            child := parent || '_' || to_char(week AT TIME ZONE 'UTC', 'YYYYMMDD');
            IF to_regclass(child) IS NULL THEN
                EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                               child, parent, week, week + interval '7 days');
                IF parent = 'messages' THEN
                    EXECUTE format('ALTER TABLE %I SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05)', child);
                END IF;
                made := made + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;
