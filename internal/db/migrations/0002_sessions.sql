-- A session is one sign-in and its family of refresh tokens. Tokens are kept
-- as SHA-256 digests only.

-- +goose Up
CREATE TABLE sp_sessions (
    id           TEXT PRIMARY KEY,
    subject_id   TEXT NOT NULL REFERENCES sp_subjects (id) ON DELETE CASCADE,
    client_id    TEXT NOT NULL,
    scoped       BOOLEAN NOT NULL,
    scope        TEXT NOT NULL, -- space separated, RFC 6749 section 3.3
    amr          TEXT NOT NULL, -- space separated, RFC 8176
    mfa          BOOLEAN NOT NULL,
    auth_time    BIGINT NOT NULL,
    created_at   BIGINT NOT NULL,
    last_used_at BIGINT NOT NULL,
    idle_until   BIGINT NOT NULL, -- moves with every refresh
    expires_at   BIGINT NOT NULL, -- never moves
    ended_at     BIGINT NOT NULL, -- 0: alive
    end_reason   TEXT NOT NULL,
    address      TEXT NOT NULL,
    user_agent   TEXT NOT NULL,
    generation   BIGINT NOT NULL, -- how often the refresh token was rotated
    refresh      BYTEA NOT NULL,  -- digest of the current refresh token
    refreshed_at BIGINT NOT NULL
);
CREATE INDEX sp_sessions_alive ON sp_sessions (subject_id, created_at, id) WHERE ended_at = 0;
CREATE INDEX sp_sessions_by_subject ON sp_sessions (subject_id);
CREATE INDEX sp_sessions_by_expiry ON sp_sessions (expires_at);
