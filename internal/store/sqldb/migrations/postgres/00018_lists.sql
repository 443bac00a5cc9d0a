-- compatible-from: 14
-- +goose NO TRANSACTION
-- +goose Up

-- Indexes of lists: newest first, and of the rows that a filter selects. An index of a filter ends with the columns of the order, so that a
-- page of a list reads its rows only.
-- An index that an interrupted migration left behind is invalid, so each is dropped first.
DROP INDEX CONCURRENTLY IF EXISTS task_listed;
CREATE INDEX CONCURRENTLY task_listed ON task (created, id, logging_cid) WHERE name <> 'countersign.tasks.seal';
DROP INDEX CONCURRENTLY IF EXISTS task_states;
CREATE INDEX CONCURRENTLY task_states ON task (state, created, id);
DROP INDEX CONCURRENTLY IF EXISTS task_name;
CREATE INDEX CONCURRENTLY task_name ON task (name, created, id);
DROP INDEX CONCURRENTLY IF EXISTS task_creator;
CREATE INDEX CONCURRENTLY task_creator ON task (created_by, created, id, state, name);
DROP INDEX CONCURRENTLY IF EXISTS task_worker;
CREATE INDEX CONCURRENTLY task_worker ON task (worker_id, created, id) WHERE worker_id IS NOT NULL;
DROP INDEX CONCURRENTLY IF EXISTS task_correlation;
CREATE INDEX CONCURRENTLY task_correlation ON task (logging_cid);
DROP INDEX CONCURRENTLY IF EXISTS repository_listed;
CREATE INDEX CONCURRENTLY repository_listed ON repository (created, id);
DROP INDEX CONCURRENTLY IF EXISTS repository_type;
CREATE INDEX CONCURRENTLY repository_type ON repository (type, created, id);
DROP INDEX CONCURRENTLY IF EXISTS repository_version_listed;
CREATE INDEX CONCURRENTLY repository_version_listed ON repository_version (created, id);
DROP INDEX CONCURRENTLY IF EXISTS distribution_listed;
CREATE INDEX CONCURRENTLY distribution_listed ON distribution (created, id);
DROP INDEX CONCURRENTLY IF EXISTS distribution_public;
CREATE INDEX CONCURRENTLY distribution_public ON distribution (repository_id) WHERE NOT private;
DROP INDEX CONCURRENTLY IF EXISTS remote_listed;
CREATE INDEX CONCURRENTLY remote_listed ON remote (created, id);
DROP INDEX CONCURRENTLY IF EXISTS manifest_listed;
CREATE INDEX CONCURRENTLY manifest_listed ON manifest (created, id);
DROP INDEX CONCURRENTLY IF EXISTS manifest_media_type;
CREATE INDEX CONCURRENTLY manifest_media_type ON manifest (media_type, created, id);
DROP INDEX CONCURRENTLY IF EXISTS blob_listed;
CREATE INDEX CONCURRENTLY blob_listed ON blob (created, id);
DROP INDEX CONCURRENTLY IF EXISTS tag_listed;
CREATE INDEX CONCURRENTLY tag_listed ON tag (created, id);
DROP INDEX CONCURRENTLY IF EXISTS tag_name;
CREATE INDEX CONCURRENTLY tag_name ON tag (name, created, id);
DROP INDEX CONCURRENTLY IF EXISTS signature_listed;
CREATE INDEX CONCURRENTLY signature_listed ON signature (created, id);
DROP INDEX CONCURRENTLY IF EXISTS signature_keys;
CREATE INDEX CONCURRENTLY signature_keys ON signature (key_id, created, id);
DROP INDEX CONCURRENTLY IF EXISTS repository_content_holder;
CREATE INDEX CONCURRENTLY repository_content_holder ON repository_content (content_id, repository_id);

-- The indexes above contain these.
DROP INDEX CONCURRENTLY IF EXISTS task_state;
DROP INDEX CONCURRENTLY IF EXISTS signature_key;
DROP INDEX CONCURRENTLY IF EXISTS repository_content_unit;
