-- Whether the job's message is for those online only (life_time 0): the service keeps it in no history, so its absence
-- there proves nothing. Known at the claim; the body of a job that its queue owns isn't kept.
ALTER TABLE jobs ADD COLUMN online_only boolean NOT NULL DEFAULT false;
