-- Ways to sign in beside the password, and where somebody has signed in before.

-- +goose Up
-- Sign-ins whose second factor is due may have begun with a link by mail, and may
-- wait for a factor that is yet to be set up.
ALTER TABLE sp_pending_signins RENAME COLUMN password TO bound; -- names what was proved: the stored hash, or the address
ALTER TABLE sp_pending_signins ADD COLUMN method TEXT NOT NULL DEFAULT 'pwd'; -- how: pwd, email
ALTER TABLE sp_pending_signins ADD COLUMN setup BOOLEAN NOT NULL DEFAULT FALSE; -- a factor is demanded, and there is none

CREATE TABLE sp_devices (
    subject_id TEXT NOT NULL REFERENCES sp_subjects (id) ON DELETE CASCADE,
    device     BYTEA NOT NULL,  -- keyed digest of the program and the network
    seen_at    BIGINT NOT NULL, -- the last sign-in with it, to the day
    told_at    BIGINT NOT NULL, -- when its person was told of it; 0: was not
    PRIMARY KEY (subject_id, device)
);
CREATE INDEX sp_devices_by_age ON sp_devices (seen_at);
