-- A chain over the audit log: what was recorded is sealed behind it, in batches,
-- each with the hash of the one before and a signature.

-- +goose Up
ALTER TABLE sp_audit ADD COLUMN session TEXT NOT NULL DEFAULT ''; -- that the request came with
ALTER TABLE sp_audit ADD COLUMN user_agent TEXT NOT NULL DEFAULT '';
ALTER TABLE sp_audit ADD COLUMN decision_id TEXT NOT NULL DEFAULT '';
-- What can be erased of an event is in the chain by its commitment, which is a
-- hash over it and the salt. Erasing takes the salt, too.
ALTER TABLE sp_audit ADD COLUMN salt BYTEA NOT NULL DEFAULT '';
ALTER TABLE sp_audit ADD COLUMN commitment BYTEA NOT NULL DEFAULT ''; -- empty: not made yet
CREATE INDEX sp_audit_by_action ON sp_audit (action, at);
CREATE INDEX sp_audit_by_address ON sp_audit (address, at) WHERE address <> '';
CREATE INDEX sp_audit_by_request ON sp_audit (request_id) WHERE request_id <> '';
CREATE INDEX sp_audit_by_decision ON sp_audit (decision_id) WHERE decision_id <> '';
CREATE INDEX sp_audit_refusals ON sp_audit (result, at) WHERE result <> 'success';

-- Events that are not sealed yet.
CREATE TABLE sp_audit_waiting (
    id   TEXT PRIMARY KEY,
    more TEXT NOT NULL -- ids of others that were committed with it, one after the other
);
INSERT INTO sp_audit_waiting (id, more) SELECT id, '' FROM sp_audit;

CREATE TABLE sp_audit_seals (
    number    BIGINT PRIMARY KEY, -- 1 and on, without gaps
    first     BIGINT NOT NULL,    -- position of its first event in the whole log, 1 and on
    events    BYTEA NOT NULL,     -- id (16 bytes) and digest (32) of each
    sealed_at BIGINT NOT NULL,
    node      TEXT NOT NULL,      -- who sealed
    hash      BYTEA NOT NULL,     -- over all of that and the hash before
    signature BYTEA NOT NULL
);

-- What retention has deleted: the last seal of it, signed.
CREATE TABLE sp_audit_cuts (
    id        BIGINT PRIMARY KEY, -- 1
    number    BIGINT NOT NULL,
    position  BIGINT NOT NULL,    -- of its last event
    hash      BYTEA NOT NULL,
    sealed_at BIGINT NOT NULL,
    signature BYTEA NOT NULL
);

-- How far events were handed on.
CREATE TABLE sp_audit_sinks (
    name       TEXT PRIMARY KEY,
    number     BIGINT NOT NULL, -- the last seal that is there
    holder     TEXT NOT NULL,   -- which node hands on
    held_until BIGINT NOT NULL
);
