-- Urgent work of one of many workers finds a slot at once: while urgent work is about, as many slots of the near line are kept
-- for it as begin within 40 ms, and one more (three in two hundred of the limit), rather than have it wait for the next one
-- that other work left. So other work may reserve 40 ms of the near line ahead instead of 20, its claims come in time, and
-- slots need not be longer than others.
ALTER TABLE budgets ADD COLUMN urgent_seen bigint NOT NULL DEFAULT 0;

-- Takes up to `want` slots that may be used at once, where the line has room: other work leaves some.
CREATE FUNCTION take_kept(
    INOUT line bigint[], INOUT next bigint, INOUT granted_from bigint[], INOUT granted_until bigint[],
    t bigint, capacity integer, want integer, valid bigint
) LANGUAGE plpgsql AS $$
DECLARE
    -- How much longer such a slot may be used: its job has yet to be claimed.
    lone CONSTANT bigint := 40000;
    n    integer := cardinality(line);
    last bigint  := coalesce(line[cardinality(line)], 0);
BEGIN
    IF capacity <= 0 THEN RETURN; END IF;
    WHILE want > 0 AND (n < capacity OR line[n + 1 - capacity] + 1000000 <= t) LOOP
        last := greatest(last, t + valid + lone);
        line := line || last;
        n := n + 1;
        granted_from := granted_from || t;
        granted_until := granted_until || last;
        next := greatest(next, t - 20000) + (1000000 + valid) / capacity;
        want := want - 1;
    END LOOP;
END $$;

-- Gives slots back and reserves others, in one transaction of one statement: the row is locked for no longer than that,
-- and the clock is read after the lock was taken.
-- Takes up to `want` slots that count until their calls are answered (budget.window = answered). Here the line is in no order: an
-- entry ends `valid` after its begin, when its call has been answered or given up at the latest, and is shortened once it
-- is known when that was. A slot begins a second after the end of all but `capacity - 1` others: whatever was granted before
-- it and may still be in a second with it is among those.
CREATE FUNCTION take_answered(
    INOUT line bigint[], INOUT next bigint, INOUT granted_from bigint[], INOUT granted_until bigint[], INOUT wait bigint,
    t bigint, earliest bigint, capacity integer, want integer, valid bigint
) LANGUAGE plpgsql AS $$
DECLARE
    -- Ends may still be shortened, so nothing is reserved far ahead.
    ahead CONSTANT bigint := 50000;
    step  bigint := 1000000 / greatest(1, capacity);
    lag   bigint := greatest(20000, step);
    last  bigint;
    slot  bigint;
BEGIN
    line := ARRAY(SELECT e FROM unnest(line) AS e WHERE e > t - 1000000);
    next := greatest(next, t - lag);
    WHILE want > 0 AND capacity > 0 LOOP
        slot := greatest(t, earliest, next);
        IF cardinality(line) >= capacity THEN
            slot := greatest(slot, (SELECT e FROM unnest(line) AS e ORDER BY e DESC OFFSET capacity - 1 LIMIT 1) + 1000000);
        END IF;
        IF slot > t + ahead THEN
            -- An answer may come at any time.
            wait := least(wait, slot - t - ahead, 20000);
            EXIT;
        END IF;
        -- Its end is its name.
        last := slot + valid;
        WHILE last = ANY (line) LOOP last := last + 1; END LOOP;
        line := line || last;
        granted_from := granted_from || slot;
        granted_until := granted_until || last;
        next := greatest(next, slot - lag) + step;
        want := want - 1;
    END LOOP;
END $$;

DROP FUNCTION reserve_slots;
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
    -- Slots count until their calls are answered; which were, by the end of their slot, and when.
    p_answered boolean, p_ended_until bigint[], p_ended bigint[],
    -- For tests only; otherwise the clock's time.
    p_now bigint DEFAULT NULL,
    OUT now_us bigint, OUT granted_from bigint[], OUT granted_until bigint[], OUT unit integer, OUT asked bigint,
    OUT paused_until bigint, OUT wait bigint, OUT share double precision
) LANGUAGE plpgsql AS $$
DECLARE
    far_ahead  CONSTANT bigint := 250000;
    near_ahead bigint := CASE WHEN p_alone THEN 250000 ELSE 40000 END;
    -- Urgent work books its slot of the near line a little sooner, rather than race others for it.
    urgent_ahead CONSTANT bigint := 60000;
    -- A slot that begins sooner needs no other for urgent work.
    soon       CONSTANT bigint := 6000;
    -- How long something is kept for urgent work after it was last asked for.
    memory     CONSTANT bigint := 5000000;
    kept       integer := 0;
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
                b.recipients_until[cardinality(b.recipients_until)], b.not_before - 1000000)
       > now_us + 1000000 + (CASE WHEN p_answered THEN p_valid ELSE 0 END) THEN
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
    IF NOT p_answered THEN calls := calls / unit; END IF;
    IF recipients_limit = 0 AND NOT p_answered THEN near_capacity := calls / 4; END IF;
    IF p_answered THEN unit := 1; END IF;

    -- Lines that are cut otherwise start with a clean second; and so does the one that was kept in no order.
    IF unit <> b.unit OR (near_capacity < b.near_capacity AND calls - near_capacity > b.far_capacity)
       OR (near_capacity > 0 AND b.near_capacity = 0 AND b.far <> '{}') THEN
        b.not_before := greatest(b.not_before, (SELECT max(e) FROM unnest(b.far || b.near) AS e) + 1000000);
        b.far := '{}'; b.near := '{}'; b.spare_from := '{}'; b.spare_until := '{}';
    END IF;
    IF near_capacity = 0 AND recipients_limit = 0 THEN
        b.far := ARRAY(SELECT e FROM unnest(b.far) AS e ORDER BY e);
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
        IF b.spare_from[found_at] < now_us OR recipients_limit > 0 OR unit > 1 OR p_answered THEN
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

    IF p_answered AND recipients_limit = 0 THEN
        FOR i IN 1..cardinality(p_ended_until) LOOP
            found_at := array_position(b.far, p_ended_until[i]);
            IF found_at IS NOT NULL THEN b.far[found_at] := least(b.far[found_at], p_ended[i]); END IF;
        END LOOP;
    END IF;

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
    ELSIF p_answered THEN
        SELECT * INTO b.far, b.far_next, granted_from, granted_until, wait
          FROM take_answered(b.far, b.far_next, granted_from, granted_until, wait,
                             now_us, earliest, calls, p_want, p_valid);
    ELSE
        p_want := (p_want + unit - 1) / unit;
        p_urgent := (p_urgent + unit - 1) / unit;
        IF p_urgent > 0 THEN b.urgent_seen := now_us; END IF;
        IF b.urgent_seen > now_us - memory AND near_capacity >= 10 THEN kept := 1 + near_capacity / 25; END IF;
        -- Urgent work: what begins soon anyway, then what is kept for it.
        first := 1;
        WHILE p_urgent > 0 AND p_want > 0 AND first <= cardinality(b.spare_from) LOOP
            IF b.spare_from[first] >= earliest AND b.spare_from[first] <= now_us + soon THEN
                granted_from := granted_from || b.spare_from[first];
                granted_until := granted_until || b.spare_until[first];
                b.spare_from := b.spare_from[:first - 1] || b.spare_from[first + 1:];
                b.spare_until := b.spare_until[:first - 1] || b.spare_until[first + 1:];
                p_want := p_want - 1;
                p_urgent := p_urgent - 1;
            ELSE
                first := first + 1;
            END IF;
        END LOOP;
        before := cardinality(granted_from);
        IF earliest <= now_us THEN
            SELECT * INTO b.near, b.near_next, granted_from, granted_until
              FROM take_kept(b.near, b.near_next, granted_from, granted_until,
                             now_us, near_capacity, least(p_urgent, p_want), p_valid);
        END IF;
        p_want := p_want - (cardinality(granted_from) - before);
        p_urgent := p_urgent - (cardinality(granted_from) - before);
        first := 1;
        WHILE p_want > 0 AND first <= cardinality(b.spare_from) LOOP
            IF b.spare_from[first] >= earliest THEN
                granted_from := granted_from || b.spare_from[first];
                granted_until := granted_until || b.spare_until[first];
                b.spare_from := b.spare_from[:first - 1] || b.spare_from[first + 1:];
                b.spare_until := b.spare_until[:first - 1] || b.spare_until[first + 1:];
                p_want := p_want - 1;
            ELSE
                first := first + 1;
            END IF;
        END LOOP;
        -- Still urgent: the near line first.
        before := cardinality(granted_from);
        SELECT * INTO b.near, b.near_next, granted_from, granted_until, wait
          FROM take_slots(b.near, b.near_next, granted_from, granted_until, wait,
                          now_us, earliest, urgent_ahead, near_capacity, least(p_urgent, p_want), p_valid, 0, true);
        p_want := p_want - (cardinality(granted_from) - before);
        before := cardinality(granted_from);
        SELECT * INTO b.far, b.far_next, granted_from, granted_until, wait
          FROM take_slots(b.far, b.far_next, granted_from, granted_until, wait,
                          now_us, earliest, far_ahead, b.far_capacity, p_want, p_valid, 0, true);
        p_want := p_want - (cardinality(granted_from) - before);
        -- What nobody urgent takes isn't wasted; but never at once, or urgent work would wait for the second to pass.
        SELECT * INTO b.near, b.near_next, granted_from, granted_until, wait
          FROM take_slots(b.near, b.near_next, granted_from, granted_until, wait,
                          now_us, earliest, near_ahead, near_capacity - kept, p_want, p_valid, 0, false);
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
           share = b.share, step_at = b.step_at, urgent_seen = b.urgent_seen
     WHERE u.host = p_host AND u.sdk_app_id = p_sdk_app_id AND u.command = p_command;
END $$;
