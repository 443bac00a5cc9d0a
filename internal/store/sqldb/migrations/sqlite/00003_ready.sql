-- +goose Up

-- A task is ready when nothing stands before it, nobody has it, and it has not ended. The states of tasks are left out on purpose: a planner
-- that has an index of states may take that, and read all that wait.
DROP INDEX task_ready;
CREATE INDEX task_ready ON task (seq) WHERE unblocked IS NOT NULL AND lease_until IS NULL AND finished IS NULL;
