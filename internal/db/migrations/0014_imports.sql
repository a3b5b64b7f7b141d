-- Imports of accounts from other systems. Which accounts are an import's is in
-- their ids: they follow the import's own, so that a million of them need no
-- rows here.

-- +goose Up
CREATE TABLE sp_imports (
    id         TEXT PRIMARY KEY, -- UUIDv7 that ends in zeros; the n-th record's account has n there
    source     TEXT NOT NULL,
    file       TEXT NOT NULL, -- absolute path
    size       BIGINT NOT NULL,
    options    TEXT NOT NULL, -- JSON object
    state      TEXT NOT NULL, -- running (or stopped), done, undone
    records    BIGINT NOT NULL, -- read so far
    offset_at  BIGINT NOT NULL, -- bytes read so far
    digest     TEXT NOT NULL, -- SHA-256 of those, in hex
    imported   BIGINT NOT NULL,
    refused    BIGINT NOT NULL,
    admins     BIGINT NOT NULL, -- of those imported
    no_password BIGINT NOT NULL, -- of those imported
    started_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
