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

-- Which node is asking, so that the others wait for what it gets.
CREATE TABLE sp_certificate_orders (
    host   TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    until  BIGINT NOT NULL
);
