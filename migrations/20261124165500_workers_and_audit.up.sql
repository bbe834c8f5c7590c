-- What each worker says of itself, once a second: whoever shows the fleet reads it here. Unlogged: after a crash each
-- worker writes its row anew within a second.
CREATE UNLOGGED TABLE workers (
    -- Of the process, made at its start.
    id         uuid        NOT NULL PRIMARY KEY,
    host       text        NOT NULL,
    pid        integer     NOT NULL,
    version    text        NOT NULL,
    -- Where its HTTP server listens; NULL: nowhere.
    http       text,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Readiness, meters and counters since the start, as JSON (fleet::Report).
    report     text        NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- What was done through the dashboard and the API, by whom and with what result. Written before the act, completed after it.
CREATE TABLE audit (
    id      bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- operator; the read-only role can't act
    role    text        NOT NULL,
    -- The name that who signed in gave, or the header x-im-actor; believed, not checked.
    actor   text,
    -- session (a browser), bearer, or open (no token is set)
    via     text        NOT NULL,
    -- The other end of the connection.
    address text,
    -- revoke, pause, resume, replay, discard, sign-in
    action  text        NOT NULL,
    target  text        NOT NULL,
    -- NULL: begun, and its end isn't on record; else done or failed
    result  text,
    detail  text
);
