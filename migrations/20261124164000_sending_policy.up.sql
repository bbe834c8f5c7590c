-- When the send window opens that a row waits for; NULL while it waits for anything else. Taking the row clears it.
ALTER TABLE work ADD COLUMN opens_at timestamptz;
CREATE INDEX work_opens ON work (lane) WHERE opens_at IS NOT NULL;

-- The send window of each lane as the workers last had it, so that the first one that comes with another wakes what waits
-- for the old one.
CREATE TABLE lane_windows (
    lane        smallint NOT NULL PRIMARY KEY,
    send_window text     NOT NULL
);

-- What counts against a cap: one row for each message and scope, written by the claim of its call. It counts unless its
-- message ended without having been sent, so a failure gives the count back by itself. Kept for 31 days, the longest
-- period of a cap.
CREATE TABLE cap_uses (
    app         text        NOT NULL,
    -- group:PREFIX or lane:LANE
    scope       text        NOT NULL,
    account     text        NOT NULL,
    job_id      text        NOT NULL,
    idx         integer     NOT NULL,
    -- The partition key of its message.
    created_at  timestamptz NOT NULL,
    -- The last claim.
    at          timestamptz NOT NULL,
    PRIMARY KEY (app, scope, account, job_id, idx)
);
CREATE INDEX cap_uses_at ON cap_uses (at);
