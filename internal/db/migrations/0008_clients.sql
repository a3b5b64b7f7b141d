-- Machine clients: programs that act for themselves. Each is a subject. A secret
-- is 256 random bits, which nobody guesses however fast the hash: a SHA-256
-- digest of it is kept, and a slow hash would protect nothing more.

-- +goose Up
CREATE TABLE sp_clients (
    id         TEXT PRIMARY KEY REFERENCES sp_subjects (id) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    secret     BYTEA NOT NULL, -- digest
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL   -- id of a subject, or who used the command line
);
CREATE INDEX sp_clients_by_creation ON sp_clients (created_at, id);
