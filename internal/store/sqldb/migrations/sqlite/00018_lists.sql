-- compatible-from: 14
-- +goose Up

-- Indexes of lists: newest first, and of the rows that a filter selects. An index of a filter ends with the columns of the order, so that a
-- page of a list reads its rows only.
CREATE INDEX task_listed ON task (created, id, logging_cid) WHERE name <> 'countersign.tasks.seal';
CREATE INDEX task_states ON task (state, created, id);
CREATE INDEX task_name ON task (name, created, id);
CREATE INDEX task_creator ON task (created_by, created, id, state, name);
CREATE INDEX task_worker ON task (worker_id, created, id) WHERE worker_id IS NOT NULL;
CREATE INDEX task_correlation ON task (logging_cid);
CREATE INDEX repository_listed ON repository (created, id);
CREATE INDEX repository_type ON repository (type, created, id);
CREATE INDEX repository_version_listed ON repository_version (created, id);
CREATE INDEX distribution_listed ON distribution (created, id);
CREATE INDEX distribution_public ON distribution (repository_id) WHERE NOT private;
CREATE INDEX remote_listed ON remote (created, id);
CREATE INDEX manifest_listed ON manifest (created, id);
CREATE INDEX manifest_media_type ON manifest (media_type, created, id);
CREATE INDEX blob_listed ON blob (created, id);
CREATE INDEX tag_listed ON tag (created, id);
CREATE INDEX tag_name ON tag (name, created, id);
CREATE INDEX signature_listed ON signature (created, id);
CREATE INDEX signature_keys ON signature (key_id, created, id);
CREATE INDEX repository_content_holder ON repository_content (content_id, repository_id);

-- The indexes above contain these.
DROP INDEX task_state;
DROP INDEX signature_key;
DROP INDEX repository_content_unit;
