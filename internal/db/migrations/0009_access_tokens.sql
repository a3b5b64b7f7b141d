-- Access tokens that are opaque, as SHA-256 digests only. What is signed (a JWT)
-- is stored nowhere.

-- +goose Up
CREATE TABLE sp_access_tokens (
    digest     BYTEA PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES sp_sessions (id) ON DELETE CASCADE,
    scoped     BOOLEAN NOT NULL,
    scope      TEXT NOT NULL, -- of this token; within its session's
    issued_at  BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX sp_access_tokens_by_session ON sp_access_tokens (session_id);
CREATE INDEX sp_access_tokens_by_expiry ON sp_access_tokens (expires_at);
