-- Recipients count for 100 ms longer than the minute. Calls are paced by when they are written, the service counts when they
-- arrive: of two calls 60 s apart the first may be slow on its way and the second quick, and then both are in one minute of
-- the service's (seen: 12,025 recipients, on a machine whose cores were all busy). It costs 0.17 % of the limit.
CREATE OR REPLACE FUNCTION take_batches(
    INOUT line bigint[], INOUT next bigint,
    INOUT recipients_until bigint[], INOUT recipients integer[], INOUT recipients_next bigint,
    INOUT granted_from bigint[], INOUT granted_until bigint[], INOUT wait bigint,
    t bigint, earliest bigint, ahead bigint, calls integer, recipients_limit integer,
    want integer, weight integer, valid bigint, urgent boolean
) LANGUAGE plpgsql AS $$
DECLARE
    lag    CONSTANT bigint  := 20000;
    lone   CONSTANT bigint  := 40000;
    settle CONSTANT bigint  := 50000;
    -- Entries of the recipients' log are merged within this.
    grain  CONSTANT bigint  := 100000;
    room   CONSTANT bigint  := 100000;
    n      integer := cardinality(line);
    m      integer := cardinality(recipients);
    last   bigint  := greatest(line[cardinality(line)], recipients_until[cardinality(recipients)] - room, 0);
    -- What an idle minute gives out at once: urgent work finds the rest.
    burst  bigint  := CASE WHEN urgent THEN recipients_limit ELSE recipients_limit / 2 END;
    used   bigint  := coalesce((SELECT sum(r) FROM unnest(recipients) AS r), 0);
    held   bigint;
    gone   integer;
    step   bigint  := 0;
    pause  bigint;
    slot   bigint;
    idle   boolean := earliest <= t AND recipients_next < t - lag;
    alone  boolean;
BEGIN
    weight := least(weight, recipients_limit);
    IF calls > 0 THEN step := (1000000 + valid) / calls; END IF;
    pause := (60000000 + valid) * weight / recipients_limit;
    next := greatest(next, t - lag);
    recipients_next := greatest(recipients_next, t - lag);
    WHILE want > 0 LOOP
        alone := idle AND used + weight <= burst AND (calls = 0 OR n < calls OR line[n + 1 - calls] + 1000000 + settle <= t);
        IF alone THEN
            slot := t;
        ELSE
            slot := greatest(t, earliest, next, recipients_next);
            IF calls > 0 AND n >= calls THEN
                slot := greatest(slot, line[n + 1 - calls] + 1000000);
            END IF;
            held := used;
            gone := 0;
            WHILE held + weight > recipients_limit AND gone < m LOOP
                gone := gone + 1;
                held := held - recipients[gone];
            END LOOP;
            IF gone > 0 THEN
                slot := greatest(slot, recipients_until[gone] + 60000000);
            END IF;
            IF slot > t + ahead THEN
                wait := least(wait, slot - t - ahead);
                EXIT;
            END IF;
        END IF;
        last := greatest(last, slot + valid + CASE WHEN alone THEN lone ELSE 0 END);
        IF calls > 0 THEN
            line := line || last;
            n := n + 1;
        END IF;
        -- Counted at the later end of what is merged: never too early.
        IF m > 0 AND recipients_until[m] / grain = (last + room) / grain THEN
            recipients_until[m] := last + room;
            recipients[m] := recipients[m] + weight;
        ELSE
            recipients_until := recipients_until || (last + room);
            recipients := recipients || weight;
            m := m + 1;
        END IF;
        used := used + weight;
        granted_from := granted_from || slot;
        granted_until := granted_until || last;
        next := greatest(next, slot - lag) + step;
        recipients_next := greatest(recipients_next, slot - lag) + pause;
        want := want - 1;
    END LOOP;
END $$;
