-- API keys of people. A key is kept as its SHA-256 digest only.

-- +goose Up
CREATE TABLE sp_api_keys (
    id           TEXT PRIMARY KEY,
    subject_id   TEXT NOT NULL REFERENCES sp_subjects (id) ON DELETE CASCADE,
    name         TEXT NOT NULL,
    prefix       TEXT NOT NULL, -- the first characters, for a person to recognise it
    digest       BYTEA NOT NULL, -- of the whole key
    scopes       TEXT NOT NULL, -- space separated; they never change
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL, -- 0: never
    is_active    BOOLEAN NOT NULL,
    last_used_at BIGINT NOT NULL -- 0: not yet; to the minute, written behind the requests
);
CREATE UNIQUE INDEX sp_api_keys_by_digest ON sp_api_keys (digest);
CREATE INDEX sp_api_keys_by_subject ON sp_api_keys (subject_id, id);
