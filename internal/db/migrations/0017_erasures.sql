-- Accounts that were deleted and whose events still hold more than they should.

-- +goose Up
CREATE TABLE sp_erasures (
    subject_id TEXT PRIMARY KEY, -- no foreign key: the subject is gone
    created_at BIGINT NOT NULL,
    erased_to  BIGINT NOT NULL -- events up to then hold no more than they should
);
