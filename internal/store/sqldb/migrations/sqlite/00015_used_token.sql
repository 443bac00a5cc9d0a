-- compatible-from: 13
-- +goose Up

-- Tokens of other issuers that may be used once, until some time after they expire. id is the sha256 of issuer and token id.
CREATE TABLE used_token (
    id          TEXT PRIMARY KEY,
    expires     BIGINT NOT NULL
);
CREATE INDEX used_token_expires ON used_token (expires);
