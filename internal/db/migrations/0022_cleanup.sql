-- Who of all nodes deletes what is old, and that it does.

-- +goose Up
CREATE TABLE sp_cleanup (
    id          BIGINT PRIMARY KEY,
    holder      TEXT NOT NULL,   -- the process whose turn it is; '': nobody's
    beat        BIGINT NOT NULL, -- grows with everything that it does
    finished_at BIGINT NOT NULL  -- when all was done last; 0: never yet
);
INSERT INTO sp_cleanup (id, holder, beat, finished_at) VALUES (1, '', 0, 0);

-- Sessions that were ended go sooner than they would expire. The index has no
-- others, and nothing of it changes with a refresh.
CREATE INDEX sp_sessions_by_end ON sp_sessions (ended_at) WHERE ended_at > 0;

-- Secrets that were shown and not confirmed, among very many that were.
CREATE INDEX sp_totp_unconfirmed ON sp_totp (created_at) WHERE NOT confirmed;

INSERT INTO sp_compatible (version, oldest) VALUES (22, 21);
