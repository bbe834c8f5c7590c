DROP TABLE cap_uses;
DROP TABLE lane_windows;
DROP INDEX work_opens;
ALTER TABLE work DROP COLUMN opens_at;
