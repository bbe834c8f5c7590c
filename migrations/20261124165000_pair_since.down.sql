ALTER TABLE calls DROP COLUMN pair_since;
ALTER TABLE messages DROP COLUMN pair_since;
