-- +goose Up

-- Who assigned signing_service_id: 'admin', 'owner' (under signing.use: repository_owners), or 'before' for assignments older than this column.
-- '' is no assignment, or one by a process of an older version: it counts for nothing.
ALTER TABLE repository ADD COLUMN signing_assigned TEXT COLLATE "C" NOT NULL DEFAULT '';
UPDATE repository SET signing_assigned = 'before' WHERE signing_service_id IS NOT NULL;

-- The path whose first push made the repository, where another repository already had that name; else ''.
ALTER TABLE repository ADD COLUMN pushed_as TEXT COLLATE "C" NOT NULL DEFAULT '';
