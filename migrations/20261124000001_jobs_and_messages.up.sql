-- Jobs are slim and not partitioned: Postgres wants the partition column in every unique key, and a job's id
-- must be unique for as long as ids are kept (90 days by default).
CREATE TABLE jobs (
    id            text        NOT NULL PRIMARY KEY,
    -- Also the partition key of the job's messages.
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- SHA-256 of type, target and content: the same id with another digest is a conflict, never a repeat.
    digest        bytea       NOT NULL,
    -- 0 send, 1 batch_send, 2 revoke, 3 import, 4 mark_read, 5 unread, 6 history
    type          smallint    NOT NULL,
    app           text        NOT NULL,
    group_name    text,
    -- 0 high, 1 normal, 2 bulk
    lane          smallint    NOT NULL,
    -- 0 its queue, 1 the table `work`; only ever from 0 to 1
    owner         smallint    NOT NULL,
    -- 0 its recipients are still being written, 1 ready, 2 closed (a long job of which nothing is pending, or one
    -- without recipients that is done)
    state         smallint    NOT NULL,
    -- Distinct recipients.
    total         integer     NOT NULL,
    -- Rows of `work` of kind 0 that have not ended yet; 0 for a job owned by its queue.
    open_parts    integer     NOT NULL DEFAULT 0,
    generation    integer     NOT NULL DEFAULT 0,
    send_at       timestamptz,
    expires_at    timestamptz,
    -- 0 reconcile, 1 fail, 2 resend
    on_unknown    smallint    NOT NULL DEFAULT 0,
    -- What the producer published, byte for byte, and its AMQP properties: kept where the job outlives its delivery.
    body          bytea,
    properties    bytea,
    queue         text,
    -- A failure of the job as a whole.
    error_code    text,
    error_message text
) WITH (fillfactor = 90);

CREATE INDEX jobs_group ON jobs (group_name, id) WHERE group_name IS NOT NULL;
CREATE INDEX jobs_created_at ON jobs (created_at);

-- One row for each recipient. For a single send the row is its own call row: the pair and the times are in it.
CREATE TABLE messages (
    created_at    timestamptz NOT NULL,
    job_id        text        NOT NULL,
    idx           integer     NOT NULL,
    from_account  text        NOT NULL,
    to_account    text        NOT NULL,
    -- 0 pending, 1 calling, 2 doubt, 3 sent, 4 failed, 5 cancelled, 6 expired, 7 revoked, 8 unknown, 9 suppressed
    state         smallint    NOT NULL,
    attempts      integer     NOT NULL DEFAULT 0,
    generation    integer     NOT NULL DEFAULT 0,
    -- The claim: who intends to call, kept after completion.
    token         uuid,
    -- A batch's call; NULL: the message row is its own call row.
    call_id       uuid,
    seq           bigint,
    random        bigint,
    encoder       smallint,
    first_call_at timestamptz,
    last_call_at  timestamptz,
    -- No call of this claim is written after this time, on the database's clock.
    call_by       timestamptz,
    msg_key       text,
    msg_time      bigint,
    sent_at       timestamptz,
    error_code    text,
    error_message text,
    revoke_id     text,
    -- 0 none, 1 wanted, 2 done, 3 failed
    revoke_state  smallint    NOT NULL DEFAULT 0,
    revoke_error  text,
    revoked_at    timestamptz,
    PRIMARY KEY (job_id, idx, created_at)
) PARTITION BY RANGE (created_at);

CREATE INDEX messages_to ON messages (to_account, created_at);
CREATE INDEX messages_revoke ON messages (revoke_id) WHERE revoke_id IS NOT NULL;

-- One row for each call that didn't simply succeed: with the message row it is the whole history of a message.
CREATE TABLE attempts (
    created_at    timestamptz NOT NULL,
    job_id        text        NOT NULL,
    idx           integer     NOT NULL,
    attempt       integer     NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    command       smallint    NOT NULL,
    -- The word of the error, or what reconciliation saw.
    code          text        NOT NULL,
    class         text        NOT NULL,
    message       text,
    url_random    bigint
) PARTITION BY RANGE (created_at);

CREATE INDEX attempts_job ON attempts (job_id, created_at);

-- A batch call: written in the statement that claims its members, before the call, and never overwritten.
CREATE TABLE calls (
    call_id       uuid        NOT NULL PRIMARY KEY,
    created_at    timestamptz NOT NULL,
    job_id        text        NOT NULL,
    part          integer     NOT NULL,
    generation    integer     NOT NULL,
    app           text        NOT NULL,
    command       smallint    NOT NULL,
    sender        text        NOT NULL,
    seq           bigint      NOT NULL,
    random        bigint      NOT NULL,
    encoder       smallint    NOT NULL,
    -- Indexes of the members in the job, in the order of the call.
    members       integer[]   NOT NULL,
    first_call_at timestamptz NOT NULL,
    last_call_at  timestamptz NOT NULL,
    call_by       timestamptz NOT NULL,
    token         uuid        NOT NULL
);

CREATE INDEX calls_job ON calls (job_id, part);

-- Every further MsgKey of a message whose row holds another: answered to a claim that had been replaced, or found.
-- A second key for one message is "sent twice": reported by `verify`, and revoked with the first.
CREATE TABLE message_keys (
    job_id        text        NOT NULL,
    idx           integer     NOT NULL,
    msg_key       text        NOT NULL,
    msg_time      bigint,
    -- 0 answered late, 1 found in the history
    source        smallint    NOT NULL,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    revoked_at    timestamptz,
    PRIMARY KEY (job_id, idx, msg_key)
);

-- What the table owns and has still to do. A row is due when `due_at` has passed; taking it moves `due_at` to the end
-- of its lease, so an expired lease is simply due again.
CREATE TABLE work (
    -- 0 deliver (or, with command admin_getroammsg, reconcile), 1 revoke one message, 2 fan a revocation out,
    -- 3 close a long job, 4 an operation without a recipient's record
    kind          smallint    NOT NULL,
    job_id        text        NOT NULL,
    -- For kind 0 the part of 500 recipients, for kind 1 the message's index.
    part          integer     NOT NULL,
    created_at    timestamptz NOT NULL,
    lane          smallint    NOT NULL,
    app           text        NOT NULL,
    -- The IM command that the next step needs, which decides the budget that it waits for.
    command       smallint    NOT NULL,
    group_name    text,
    due_at        timestamptz NOT NULL,
    -- Attempts that counted, of the current generation.
    attempts      integer     NOT NULL DEFAULT 0,
    generation    integer     NOT NULL DEFAULT 0,
    -- How often its owner died with it in its hands.
    takeovers     integer     NOT NULL DEFAULT 0,
    lease         uuid,
    -- Looks at the history without a sight of the message, and when the last was.
    looks         integer     NOT NULL DEFAULT 0,
    looked_at     timestamptz,
    doubt_since   timestamptz,
    PRIMARY KEY (job_id, kind, part)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX work_due ON work (command, app, lane, due_at);

CREATE TABLE revocations (
    -- The revoke job's id.
    id            text        NOT NULL PRIMARY KEY,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    app           text        NOT NULL,
    lane          smallint    NOT NULL,
    -- Exactly one of: a job (all or some of its recipients), a group, a message by its key.
    target_job    text,
    to_accounts   text[],
    target_group  text,
    from_account  text,
    to_account    text,
    msg_key       text,
    -- A group's tombstone covers jobs that arrive until then.
    expires_at    timestamptz,
    lifted_at     timestamptz,
    -- Fan-out: how far, and whether it reached the end.
    cursor_job    text        NOT NULL DEFAULT '',
    cursor_idx    integer     NOT NULL DEFAULT -1,
    fanned_out    boolean     NOT NULL DEFAULT false,
    -- For a message that no record of ours owns: 0 none, 1 wanted, 2 done, 3 failed
    raw_state     smallint    NOT NULL DEFAULT 0,
    raw_error     text,
    reply_to      text,
    correlation_id text
);

CREATE INDEX revocations_job ON revocations (target_job) WHERE target_job IS NOT NULL;
CREATE INDEX revocations_group ON revocations (target_group) WHERE target_group IS NOT NULL;

-- Written with the effect, published afterwards: events and dead letters of work that the table owns.
CREATE TABLE outbox (
    id             bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Publishable from then on; taking a row moves it ahead, so that a publisher that died is replaced.
    due_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- 0 event, 1 dead letter
    kind           smallint    NOT NULL,
    job_id         text        NOT NULL,
    event_id       text        NOT NULL,
    routing_key    text        NOT NULL,
    body           bytea       NOT NULL,
    reply_to       text,
    correlation_id text,
    -- Of a dead letter: its word, sentence, attempts and generation; the body and properties are the job's.
    error_code     text,
    error_message  text,
    attempts       integer     NOT NULL DEFAULT 0,
    generation     integer     NOT NULL DEFAULT 0
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX outbox_due ON outbox (due_at, id);

-- Weekly partitions from a week back to four weeks ahead; called by `migrate`, by each worker's start and daily.
CREATE FUNCTION ensure_partitions(around timestamptz DEFAULT clock_timestamp()) RETURNS integer
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
                    -- Outcomes update in place (HOT): room on each page, and no index on what changes.
                    EXECUTE format('ALTER TABLE %I SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05)', child);
                END IF;
                made := made + 1;
            END IF;
        END LOOP;
    END LOOP;
    RETURN made;
END $$;

SELECT ensure_partitions();
