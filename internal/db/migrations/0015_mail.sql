-- Letters to people, and what proves that somebody reads them.

-- +goose Up
CREATE TABLE sp_outbox (
    id         TEXT PRIMARY KEY, -- UUIDv7; also the Message-ID, so that a letter sent twice is seen to be one
    subject_id TEXT REFERENCES sp_subjects (id) ON DELETE CASCADE, -- NULL: about no account
    kind       TEXT NOT NULL,
    sealed     BYTEA NOT NULL,  -- address and text: they hold links that open accounts
    attempts   BIGINT NOT NULL, -- how often somebody set out to send it
    due_at     BIGINT NOT NULL, -- not before; of one that is being sent, when it is given up
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL, -- worth nothing from then on
    failure    TEXT NOT NULL    -- why the last attempt failed
);
CREATE INDEX sp_outbox_by_due ON sp_outbox (due_at);

-- Single-use tokens that were sent by mail. A row of an address that is no
-- account's has no subject, and is there so that asking costs the same.
CREATE TABLE sp_mail_tokens (
    digest     BYTEA PRIMARY KEY, -- of the token
    purpose    TEXT NOT NULL,     -- verify, reset, address, sign_in, invitation
    subject_id TEXT REFERENCES sp_subjects (id) ON DELETE CASCADE,
    address    BYTEA NOT NULL,    -- keyed digest of the address that it was sent to
    bound      BYTEA NOT NULL,    -- names what of the account must be as it was
    payload    TEXT NOT NULL,     -- of an address that is to be changed: the new one
    code       BYTEA,             -- keyed digest of the code that does the same
    handle     BYTEA UNIQUE,      -- digest of what must come along with the code
    familiar   BOOLEAN NOT NULL,  -- asked for from where somebody has signed in to the account
    tries      BIGINT NOT NULL,   -- codes that were looked at
    used       BOOLEAN NOT NULL,  -- or worthless for another reason
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX sp_mail_tokens_by_address ON sp_mail_tokens (address, purpose, created_at);
CREATE INDEX sp_mail_tokens_by_subject ON sp_mail_tokens (subject_id);
CREATE INDEX sp_mail_tokens_by_creation ON sp_mail_tokens (created_at);
