-- The second factor: what makes one-time codes, what helps when it is lost, and
-- sign-ins whose password was right and whose second factor is due.

-- +goose Up
CREATE TABLE sp_totp (
    subject_id TEXT PRIMARY KEY REFERENCES sp_subjects (id) ON DELETE CASCADE,
    enrolment  TEXT NOT NULL,    -- id, another one with every secret
    sealed     BYTEA NOT NULL,   -- the secret, under the master key
    confirmed  BOOLEAN NOT NULL, -- a code was shown, and it is asked for at sign-in
    last_step  BIGINT NOT NULL,  -- the time step of the last code that was used; only ever grows
    created_at BIGINT NOT NULL
);

CREATE TABLE sp_recovery_codes (
    subject_id TEXT NOT NULL REFERENCES sp_subjects (id) ON DELETE CASCADE,
    digest     BYTEA NOT NULL,  -- keyed
    used_at    BIGINT NOT NULL, -- 0: it is good
    PRIMARY KEY (subject_id, digest)
);

CREATE TABLE sp_pending_signins (
    digest     BYTEA PRIMARY KEY, -- of the mfa_token
    subject_id TEXT NOT NULL REFERENCES sp_subjects (id) ON DELETE CASCADE,
    password   BYTEA NOT NULL,    -- names the stored hash that the password was right for
    client_id  TEXT NOT NULL,
    scoped     BOOLEAN NOT NULL,
    scope      TEXT NOT NULL,     -- as it was asked for
    cookie     BOOLEAN NOT NULL,
    tries      BIGINT NOT NULL,   -- codes that were looked at, or are being
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX sp_pending_signins_by_subject ON sp_pending_signins (subject_id, created_at);
CREATE INDEX sp_pending_signins_by_expiry ON sp_pending_signins (expires_at);
