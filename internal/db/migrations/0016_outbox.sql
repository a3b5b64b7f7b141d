-- Which letters are being sent, and when one was tried last.

-- +goose Up
ALTER TABLE sp_outbox ADD COLUMN claimed BOOLEAN NOT NULL DEFAULT FALSE; -- by a node that is sending it, until due_at
ALTER TABLE sp_outbox ADD COLUMN tried_at BIGINT NOT NULL DEFAULT 0;     -- 0: never
CREATE INDEX sp_outbox_by_expiry ON sp_outbox (expires_at);
CREATE INDEX sp_outbox_by_subject ON sp_outbox (subject_id);
