DROP FUNCTION ensure_partitions(timestamptz);
DROP TABLE outbox, revocations, work, message_keys, calls, attempts, messages, jobs;
