-- People. *_key columns are normalised copies that are compared; the columns
-- beside them keep what was sent.

-- +goose Up
CREATE TABLE sp_accounts (
    id             TEXT PRIMARY KEY REFERENCES sp_subjects (id) ON DELETE CASCADE,
    username       TEXT,
    username_key   TEXT UNIQUE,
    email          TEXT NOT NULL,
    email_key      TEXT NOT NULL UNIQUE,
    email_verified BOOLEAN NOT NULL,
    full_name      TEXT,
    password_hash  TEXT NOT NULL, -- '': no password
    created_at     BIGINT NOT NULL,
    updated_at     BIGINT NOT NULL,
    last_login_at  BIGINT -- NULL: never
);
CREATE INDEX sp_accounts_by_creation ON sp_accounts (created_at, id);
