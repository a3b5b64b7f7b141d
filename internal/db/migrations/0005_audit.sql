-- What happened. Rows are only ever added. There are no foreign keys: an event
-- outlives what it is about.

-- +goose Up
CREATE TABLE sp_audit (
    id         TEXT PRIMARY KEY, -- UUIDv7: sorts by time
    at         BIGINT NOT NULL,
    action     TEXT NOT NULL,
    result     TEXT NOT NULL, -- success, failure, denied
    actor      TEXT NOT NULL,
    actor_kind TEXT NOT NULL,
    target     TEXT NOT NULL,
    reason     TEXT NOT NULL,
    address    TEXT NOT NULL,
    request_id TEXT NOT NULL,
    detail     TEXT NOT NULL -- JSON object
);
CREATE INDEX sp_audit_by_time ON sp_audit (at);
CREATE INDEX sp_audit_by_actor ON sp_audit (actor, at);
CREATE INDEX sp_audit_by_target ON sp_audit (target, at);
