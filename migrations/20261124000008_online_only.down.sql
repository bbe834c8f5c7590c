ALTER TABLE jobs DROP COLUMN online_only;
