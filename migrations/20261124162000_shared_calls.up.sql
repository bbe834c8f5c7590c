-- A shared call: sends of several jobs that were merged into one batch call (`coalesce`). Its `part` is -1, its `job_id`
-- that of its first member and `members` empty; here are its members' jobs, in the order of the call. A member's message
-- names the call by `call_id` and keeps the pair too, so that each is reconciled alone.
ALTER TABLE calls ADD COLUMN jobs text[];
