-- +goose Up

-- A tag's serial alone says whether it has changed since it was written.
ALTER TABLE upstream_tag DROP COLUMN written_digest;
