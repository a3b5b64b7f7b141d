-- People who are kept in a users table of the service's own: the account that stands
-- for each of them here. Their names and hash are in sp_accounts as that table had
-- them last, under keys that nobody can be found by.

-- +goose Up
CREATE TABLE sp_own_users (
    own_id     TEXT PRIMARY KEY CHECK (own_id <> ''), -- there
    subject_id TEXT NOT NULL UNIQUE REFERENCES sp_subjects (id) ON DELETE CASCADE,
    version    BIGINT NOT NULL,  -- grows with everything that is noted
    disabled   BOOLEAN NOT NULL, -- there, or gone from there
    blocked    BOOLEAN NOT NULL, -- here, by an administrator
    next_hash  BYTEA NOT NULL,   -- names the hash that is about to take the place of one of the same password; empty: none is
    next_at    BIGINT NOT NULL   -- since when
);

INSERT INTO sp_compatible (version, oldest) VALUES (25, 24);
