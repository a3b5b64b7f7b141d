-- Whether an account has a second factor. A password alone, as HTTP Basic sends
-- it, does not open such an account.

-- +goose Up
ALTER TABLE sp_accounts ADD COLUMN mfa BOOLEAN NOT NULL DEFAULT FALSE;
