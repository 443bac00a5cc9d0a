-- +goose Up

-- Whether a repository signs on push: no tag of it is visible before its signing service has signed it (architecture 6).
ALTER TABLE repository ADD COLUMN sign_on_push BOOLEAN NOT NULL DEFAULT FALSE;
