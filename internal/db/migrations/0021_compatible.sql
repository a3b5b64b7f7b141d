-- What a program that is older than the schema must know, and what is to be done
-- after a failover that has lost commits.

-- +goose Up
-- A step from here on after which programs of an older schema go on working says so
-- with a row: docs/database.md has the rules.
CREATE TABLE sp_compatible (
    version BIGINT PRIMARY KEY, -- the step
    oldest  BIGINT NOT NULL     -- the oldest schema version whose programs still work
);

-- While it is not 0, what the past may have brought back is being ended, and nobody
-- is let in: see history.go. Since when.
ALTER TABLE sp_versions ADD COLUMN unsettled BIGINT NOT NULL DEFAULT 0;
