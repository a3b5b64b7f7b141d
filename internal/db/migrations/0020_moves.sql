-- Moves of everything to another database. Both sides know of one, so that it can
-- go on after a crash and only one of the two is ever served.

-- +goose Up
CREATE TABLE sp_moves (
    id         TEXT NOT NULL,   -- the same on both sides
    side       TEXT NOT NULL,   -- from, to: which of the two this database is
    other      TEXT NOT NULL,   -- what the other one is called, without a password
    state      TEXT NOT NULL,   -- running (or stopped), done
    started_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (id, side)
);
