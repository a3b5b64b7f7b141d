-- What authority has changed, for every node to hear of. AUTOINCREMENT: a number
-- that was deleted is never given again, or a node that waits for higher ones
-- would not hear of it.

-- +goose Up
CREATE TABLE sp_changes (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    what TEXT NOT NULL, -- id of a subject, or one of the names in changes.go
    at   BIGINT NOT NULL
);
CREATE INDEX sp_changes_by_time ON sp_changes (at);
ALTER TABLE sp_versions ADD COLUMN feed TEXT NOT NULL DEFAULT ''; -- another one: the past has come back
