-- +goose Up

-- Where a task comes from: 'user' (created_by, which becomes NULL when the account is deleted), 'command' (the command line) or 'system' (the server itself).
-- '' is a task of a version that did not record it. Such a task fails when a worker claims it, except where created_by shows that a user made it.
ALTER TABLE task ADD COLUMN origin TEXT NOT NULL DEFAULT '';
UPDATE task SET origin = 'user' WHERE created_by IS NOT NULL;
