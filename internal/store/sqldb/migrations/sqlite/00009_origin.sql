-- +goose Up

-- Where a task comes from: 'user' (created_by, which becomes NULL when the account is deleted), 'command' (the command line) or 'system' (the server itself).
-- '' is a task of a version that did not record it. Such a task fails when a worker claims it, except where created_by shows that a user made it.
ALTER TABLE task ADD COLUMN origin TEXT NOT NULL DEFAULT '';
UPDATE task SET origin = 'user' WHERE created_by IS NOT NULL;

-- The order in which ready tasks are claimed is fair (ARCHITECTURE, "A task"): turn orders the tasks of different owners, lap those of one owner in different
-- namespaces. Both are set when the task becomes ready.
ALTER TABLE task ADD COLUMN long BOOLEAN NOT NULL DEFAULT FALSE;   -- may run for hours, so some slots do not take it
ALTER TABLE task ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE task ADD COLUMN namespace TEXT NOT NULL DEFAULT '';
ALTER TABLE task ADD COLUMN turn BIGINT NOT NULL DEFAULT 0;
ALTER TABLE task ADD COLUMN lap BIGINT NOT NULL DEFAULT 0;
UPDATE task SET owner = 'user:' || created_by WHERE created_by IS NOT NULL AND finished IS NULL;
UPDATE task SET long = TRUE WHERE finished IS NULL AND name IN ('pulp_container.app.tasks.synchronize.synchronize', 'pulpcore.app.tasks.repository.repair_version',
    'pulpcore.app.tasks.purge.purge', 'pulpcore.app.tasks.orphan.orphan_cleanup', 'countersign.tasks.adopt', 'countersign.tasks.compare');

-- Of ready tasks. The previous version ordered its claims by seq: beside this one it sorts them.
DROP INDEX task_ready;
CREATE INDEX task_turn ON task (long, turn, seq) WHERE unblocked IS NOT NULL AND lease_until IS NULL AND finished IS NULL;
CREATE INDEX task_lap ON task (long, owner, lap, seq) WHERE unblocked IS NOT NULL AND lease_until IS NULL AND finished IS NULL;
-- Of running tasks.
CREATE INDEX task_running_turn ON task (long, turn) WHERE lease_until IS NOT NULL;
CREATE INDEX task_running_lap ON task (long, owner, lap) WHERE lease_until IS NOT NULL;
-- Of ready and running tasks.
CREATE INDEX task_owner ON task (long, owner, turn) WHERE unblocked IS NOT NULL AND finished IS NULL;
CREATE INDEX task_namespace ON task (long, owner, namespace, lap) WHERE unblocked IS NOT NULL AND finished IS NULL;
