-- Signing keys and other secrets of the server, sealed under the master key.

-- +goose Up
CREATE TABLE sp_signing_keys (
    id           TEXT PRIMARY KEY, -- kid
    alg          TEXT NOT NULL,
    state        TEXT NOT NULL, -- next, active, retiring, retired
    sealed       BYTEA NOT NULL,
    created_at   BIGINT NOT NULL,
    activated_at BIGINT NOT NULL, -- 0: not yet
    retire_at    BIGINT NOT NULL  -- of a retiring key; 0: not set
);
CREATE TABLE sp_secrets (
    name       TEXT PRIMARY KEY,
    sealed     BYTEA NOT NULL,
    created_at BIGINT NOT NULL
);
