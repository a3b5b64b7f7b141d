-- How often passwords were tried. An account is named by a keyed digest: of its
-- id, or of a name that is no account's, because people type passwords there.

-- +goose Up
CREATE TABLE sp_attempts (
    account   TEXT NOT NULL,   -- keyed digest; '': of all accounts together
    network   TEXT NOT NULL,   -- 203.0.113.7/32; '': from all networks together
    failures  BIGINT NOT NULL, -- of one account from one network, in a row
    last_at   BIGINT NOT NULL, -- the last of them; of a budget, when it was last noted that it is used up
    until     BIGINT NOT NULL, -- locked until then; a budget is whole again then
    held      TEXT NOT NULL,   -- attempts under way: when each is given up, space separated
    seen_at   BIGINT NOT NULL, -- the last that succeeded; 0: none
    forget_at BIGINT NOT NULL, -- when the row may go, to the day
    PRIMARY KEY (account, network)
);
CREATE INDEX sp_attempts_by_end ON sp_attempts (forget_at);
