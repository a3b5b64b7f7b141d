-- Policies in Cedar, and what they were before.
--
-- Programs of an older schema do not go on working: they would let in what a policy
-- forbids.

-- +goose Up
ALTER TABLE sp_versions ADD COLUMN policies BIGINT NOT NULL DEFAULT 1; -- of all policies: grows with every change of one

CREATE TABLE sp_policies (
    id          TEXT PRIMARY KEY,
    cedar       TEXT NOT NULL,
    description TEXT NOT NULL,
    permits     BOOLEAN NOT NULL, -- or forbids
    actions     TEXT NOT NULL,    -- that it is about, separated by spaces; empty: all
    version     BIGINT NOT NULL,  -- of all policies, when it became what it is
    updated_at  BIGINT NOT NULL,
    updated_by  TEXT NOT NULL
);
CREATE TABLE sp_policy_versions (
    policy_id   TEXT NOT NULL, -- also of one that is deleted
    version     BIGINT NOT NULL,
    cedar       TEXT NOT NULL,
    description TEXT NOT NULL,
    deleted     BOOLEAN NOT NULL,
    updated_at  BIGINT NOT NULL,
    updated_by  TEXT NOT NULL,
    PRIMARY KEY (policy_id, version)
);

-- The types of resources that rules name, so that policies may.
CREATE TABLE sp_resource_types (
    name TEXT PRIMARY KEY
);
