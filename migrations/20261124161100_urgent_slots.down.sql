DROP FUNCTION reserve_slots;

-- Gives slots back and reserves others, in one transaction of one statement: the row is locked for no longer than that,
-- and the clock is read after the lock was taken.
CREATE FUNCTION reserve_slots(
    p_host text, p_sdk_app_id bigint, p_command smallint,
    -- The limits as they are configured; 0: none.
    p_calls integer, p_recipients integer,
    -- How long a slot may be used after it began.
    p_valid bigint,
    -- How many slots are wanted, how many of them for urgent work, and for how many recipients each (0: they don't count).
    p_want integer, p_urgent integer, p_weight integer,
    -- No other worker seems to ask: then urgent work takes over slots that were reserved for other work there.
    p_alone boolean,
    -- Slots that their worker gives back: begin and end of those that may still be used, the ends of those that may not.
    p_back_from bigint[], p_back_until bigint[], p_forfeited bigint[],
    -- Recipients that weren't called: by the end of their slot.
    p_fewer_until bigint[], p_fewer integer[],
    -- For tests only; otherwise the clock's time.
    p_now bigint DEFAULT NULL,
    OUT now_us bigint, OUT granted_from bigint[], OUT granted_until bigint[], OUT unit integer, OUT asked bigint,
    OUT paused_until bigint, OUT wait bigint, OUT share double precision
) LANGUAGE plpgsql AS $$
DECLARE
    far_ahead  CONSTANT bigint := 250000;
    near_ahead bigint := CASE WHEN p_alone THEN 250000 ELSE 20000 END;
    -- What is granted so shortly before may be used longer, or claims would come too late.
    near_extra bigint := CASE WHEN p_alone THEN 0 ELSE 12000 END;
    -- Urgent work books its slot of the near line a little sooner, rather than race others for it.
    urgent_ahead CONSTANT bigint := 60000;
    settle     CONSTANT bigint := 50000;
    b          budgets%ROWTYPE;
    fresh      integer;
    first      integer;
    found_at   integer;
    calls      integer;
    recipients_limit integer;
    near_capacity integer := 0;
    earliest   bigint;
    before     integer;
    x          bigint;
BEGIN
    SELECT * INTO b FROM budgets
     WHERE host = p_host AND sdk_app_id = p_sdk_app_id AND command = p_command FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO budget_keys (host, sdk_app_id, command) VALUES (p_host, p_sdk_app_id, p_command)
        ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS fresh = ROW_COUNT;
        now_us := coalesce(p_now, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
        -- A lost row: what was reserved from it, at most 250 ms ahead, leaves the window first.
        INSERT INTO budgets (host, sdk_app_id, command, not_before, batches_not_before)
        VALUES (p_host, p_sdk_app_id, p_command,
                CASE WHEN fresh = 1 THEN 0 ELSE now_us + 1500000 END,
                CASE WHEN fresh = 1 THEN 0 ELSE now_us + 60500000 END)
        ON CONFLICT DO NOTHING;
        SELECT * INTO b FROM budgets
         WHERE host = p_host AND sdk_app_id = p_sdk_app_id AND command = p_command FOR UPDATE;
    END IF;
    now_us := coalesce(p_now, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
    granted_from := '{}';
    granted_until := '{}';
    wait := 250000;

    -- Nothing is reserved that far ahead: this clock was set back. What was reserved by the old one leaves the window first.
    IF greatest(b.far[cardinality(b.far)], b.near[cardinality(b.near)],
                b.recipients_until[cardinality(b.recipients_until)], b.not_before - 1000000) > now_us + 1000000 THEN
        b.not_before := now_us + 1500000;
        b.batches_not_before := now_us + 60500000;
        b.paused_until := least(b.paused_until, now_us + 1000000);
        b.far := '{}'; b.near := '{}'; b.spare_from := '{}'; b.spare_until := '{}';
        b.recipients_until := '{}'; b.recipients := '{}';
        b.far_next := 0; b.near_next := 0; b.recipients_next := 0;
        b.step_at := least(b.step_at, now_us + 5000000);
    END IF;

    -- A lowered rate comes back in steps.
    WHILE b.share < 1 AND now_us >= b.step_at LOOP
        b.share := least(1, b.share + 0.125);
        b.step_at := b.step_at + 5000000;
    END LOOP;
    calls := CASE WHEN p_calls = 0 THEN 0 ELSE greatest(1, round(p_calls * b.share)) END;
    recipients_limit := CASE WHEN p_recipients = 0 THEN 0 ELSE greatest(1, round(p_recipients * b.share)) END;
    unit := CASE WHEN recipients_limit > 0 THEN 1 ELSE greatest(1, (calls + 999) / 1000) END;
    calls := calls / unit;
    IF recipients_limit = 0 THEN near_capacity := calls / 4; END IF;

    -- Lines that are cut otherwise start with a clean second.
    IF unit <> b.unit OR (near_capacity < b.near_capacity AND calls - near_capacity > b.far_capacity) THEN
        b.not_before := greatest(b.not_before, b.far[cardinality(b.far)] + 1000000, b.near[cardinality(b.near)] + 1000000);
        b.far := '{}'; b.near := '{}'; b.spare_from := '{}'; b.spare_until := '{}';
    END IF;
    b.unit := unit;
    b.near_capacity := near_capacity;
    b.far_capacity := calls - near_capacity;

    -- What is given back in time is for the next who asks.
    FOR i IN 1..cardinality(p_back_from) LOOP
        b.spare_from := b.spare_from || p_back_from[i];
        b.spare_until := b.spare_until || p_back_until[i];
    END LOOP;
    -- What can't be used any more never happened: it leaves the line, and the pace is caught up.
    found_at := 1;
    WHILE found_at <= cardinality(b.spare_from) LOOP
        IF b.spare_from[found_at] < now_us OR recipients_limit > 0 OR unit > 1 THEN
            p_forfeited := p_forfeited || b.spare_until[found_at];
            b.spare_from := b.spare_from[:found_at - 1] || b.spare_from[found_at + 1:];
            b.spare_until := b.spare_until[:found_at - 1] || b.spare_until[found_at + 1:];
        ELSE
            found_at := found_at + 1;
        END IF;
    END LOOP;
    IF unit = 1 AND calls > 0 THEN
        FOREACH x IN ARRAY p_forfeited LOOP
            found_at := array_position(b.far, x);
            IF found_at IS NOT NULL THEN
                b.far := b.far[:found_at - 1] || b.far[found_at + 1:];
                b.far_next := b.far_next - (1000000 + p_valid) / greatest(1, b.far_capacity);
            ELSE
                found_at := array_position(b.near, x);
                IF found_at IS NOT NULL THEN
                    b.near := b.near[:found_at - 1] || b.near[found_at + 1:];
                    b.near_next := b.near_next - (1000000 + p_valid) / greatest(1, near_capacity);
                END IF;
            END IF;
        END LOOP;
    END IF;
    FOR i IN 1..cardinality(p_fewer_until) LOOP
        -- The first entry that ends no sooner is the one with which it was merged.
        FOR j IN 1..cardinality(b.recipients_until) LOOP
            IF b.recipients_until[j] >= p_fewer_until[i] THEN
                b.recipients[j] := greatest(0, b.recipients[j] - p_fewer[i]);
                IF recipients_limit > 0 THEN
                    b.recipients_next := b.recipients_next - (60000000 + p_valid) * p_fewer[i] / recipients_limit;
                END IF;
                EXIT;
            END IF;
        END LOOP;
    END LOOP;

    -- What has left every window.
    first := 1;
    WHILE b.far[first] <= now_us - 1000000 - settle LOOP first := first + 1; END LOOP;
    b.far := b.far[first:];
    first := 1;
    WHILE b.near[first] <= now_us - 1000000 - settle LOOP first := first + 1; END LOOP;
    b.near := b.near[first:];
    first := 1;
    WHILE b.recipients_until[first] <= now_us - 60000000 LOOP first := first + 1; END LOOP;
    b.recipients_until := b.recipients_until[first:];
    b.recipients := b.recipients[first:];

    earliest := greatest(b.not_before, b.paused_until);
    IF recipients_limit > 0 THEN
        earliest := greatest(earliest, b.batches_not_before);
        SELECT * INTO b.far, b.far_next, b.recipients_until, b.recipients, b.recipients_next, granted_from, granted_until, wait
          FROM take_batches(b.far, b.far_next, b.recipients_until, b.recipients, b.recipients_next,
                            granted_from, granted_until, wait,
                            now_us, earliest, far_ahead, calls, recipients_limit, p_want, p_weight, p_valid, p_urgent > 0);
    ELSE
        p_want := (p_want + unit - 1) / unit;
        p_urgent := (p_urgent + unit - 1) / unit;
        first := 1;
        WHILE p_want > 0 AND first <= cardinality(b.spare_from) LOOP
            IF b.spare_from[first] >= earliest THEN
                granted_from := granted_from || b.spare_from[first];
                granted_until := granted_until || b.spare_until[first];
                b.spare_from := b.spare_from[:first - 1] || b.spare_from[first + 1:];
                b.spare_until := b.spare_until[:first - 1] || b.spare_until[first + 1:];
                p_want := p_want - 1;
                p_urgent := greatest(0, p_urgent - 1);
            ELSE
                first := first + 1;
            END IF;
        END LOOP;
        -- Urgent work: the near line first.
        before := cardinality(granted_from);
        SELECT * INTO b.near, b.near_next, granted_from, granted_until, wait
          FROM take_slots(b.near, b.near_next, granted_from, granted_until, wait,
                          now_us, earliest, urgent_ahead, near_capacity, least(p_urgent, p_want), p_valid, near_extra, true);
        p_want := p_want - (cardinality(granted_from) - before);
        before := cardinality(granted_from);
        SELECT * INTO b.far, b.far_next, granted_from, granted_until, wait
          FROM take_slots(b.far, b.far_next, granted_from, granted_until, wait,
                          now_us, earliest, far_ahead, b.far_capacity, p_want, p_valid, 0, true);
        p_want := p_want - (cardinality(granted_from) - before);
        -- What nobody urgent takes isn't wasted; but never at once, or urgent work would wait for the second to pass.
        SELECT * INTO b.near, b.near_next, granted_from, granted_until, wait
          FROM take_slots(b.near, b.near_next, granted_from, granted_until, wait,
                          now_us, earliest, near_ahead, near_capacity, p_want, p_valid, near_extra, false);
    END IF;

    b.asked := b.asked + 1;
    asked := b.asked;
    paused_until := b.paused_until;
    share := b.share;
    UPDATE budgets AS u
       SET asked = b.asked, unit = b.unit, near_capacity = b.near_capacity, far_capacity = b.far_capacity,
           far = b.far, near = b.near, far_next = b.far_next, near_next = b.near_next,
           recipients_until = b.recipients_until, recipients = b.recipients, recipients_next = b.recipients_next,
           spare_from = b.spare_from, spare_until = b.spare_until, not_before = b.not_before,
           batches_not_before = b.batches_not_before, paused_until = b.paused_until,
           share = b.share, step_at = b.step_at
     WHERE u.host = p_host AND u.sdk_app_id = p_sdk_app_id AND u.command = p_command;
END $$;

DROP FUNCTION take_kept;
DROP FUNCTION take_answered;
ALTER TABLE budgets DROP COLUMN urgent_seen;
