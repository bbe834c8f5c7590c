-- What an operator paused; every worker reads it several times a second.
CREATE TABLE pauses (
    -- lane, group or app
    kind       text        NOT NULL,
    name       text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- When it ends by itself; NULL: when it is resumed.
    until      timestamptz,
    PRIMARY KEY (kind, name)
);

-- Rows of a paused group are put off, so that nobody looks at a million of them again and again; resuming the group
-- brings them back.
ALTER TABLE work ADD COLUMN parked boolean NOT NULL DEFAULT false;
CREATE INDEX work_parked ON work (group_name) WHERE parked;
