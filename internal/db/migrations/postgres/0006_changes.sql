-- What authority has changed, for every node to hear of. A serial number would
-- not do: a lower one can be committed after a higher one was read. The id of
-- the transaction tells, with the snapshot of the last reading, whether it was
-- visible then.

-- +goose Up
CREATE TABLE sp_changes (
    tx   xid8 NOT NULL DEFAULT pg_current_xact_id(),
    what TEXT NOT NULL, -- id of a subject, or one of the names in changes.go
    at   BIGINT NOT NULL,
    PRIMARY KEY (tx, what)
);
CREATE INDEX sp_changes_by_time ON sp_changes (at);
ALTER TABLE sp_versions ADD COLUMN feed TEXT NOT NULL DEFAULT ''; -- another one: the past has come back
