-- Worker processes that have started and not ended in good order: how the next one knows that a job may have killed one.
CREATE TABLE worker_runs (
    id         uuid        NOT NULL PRIMARY KEY,
    host       text        NOT NULL,
    pid        integer     NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Said every few seconds; one that was silent for a minute is gone, wherever it ran.
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
