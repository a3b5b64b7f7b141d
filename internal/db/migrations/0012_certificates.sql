-- Certificates from an ACME authority, with what asking for them leaves behind:
-- shared by all nodes, sealed under the master key.

-- +goose Up
CREATE TABLE sp_certificates (
    directory  TEXT NOT NULL, -- URL of the authority: another one's certificates are others
    name       TEXT NOT NULL, -- a host, the account, or a challenge
    sealed     BYTEA NOT NULL, -- private key and chain
    transient  BOOLEAN NOT NULL, -- of a challenge: worth nothing after an hour
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (directory, name)
);

-- Which node is asking, so that the others wait for what it gets, and how often
-- that was in vain, so that no restart and no other node asks more often than the
-- authority allows.
CREATE TABLE sp_certificate_orders (
    directory TEXT NOT NULL,
    host      TEXT NOT NULL,
    holder    TEXT NOT NULL, -- empty: nobody asks before “until”
    until     BIGINT NOT NULL,
    attempts  BIGINT NOT NULL, -- since there was a certificate
    PRIMARY KEY (directory, host)
);
