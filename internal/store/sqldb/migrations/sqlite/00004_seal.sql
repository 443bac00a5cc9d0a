-- +goose Up

-- Whether a repository signs on push: no tag of it is visible before its signing service has signed it (compatibility.md#sign-on-push).
ALTER TABLE repository ADD COLUMN sign_on_push BOOLEAN NOT NULL DEFAULT FALSE;
