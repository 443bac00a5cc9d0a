-- +goose Up

-- Rows that another process is writing must be committed before they are copied: the copied tables are dropped.
LOCK TABLE pending_content, fetched_content, staged_signature;

-- Content units that no version of a repository holds yet, with the reason why they are stored:
--   pending: a client uploaded the unit to the repository. The repository serves it, and the change that refers to it adds it to a version.
--   fetched: a sync stored the unit for the repository's next version, or a push that lacks signatures stored its manifest. Nobody is served it.
--   staged:  the unit is a signature that a running task has made and not committed yet. Nobody is served it.
-- One unit can have several rows, with different reasons, repositories or tasks.
CREATE TABLE unversioned_content (
    reason          TEXT COLLATE "C" NOT NULL CHECK (reason IN ('pending', 'fetched', 'staged')),
    repository_id   TEXT COLLATE "C" REFERENCES repository (id) ON DELETE CASCADE,   -- NULL for staged signatures
    task_id         TEXT COLLATE "C" REFERENCES task (id) ON DELETE CASCADE,         -- of a staged signature
    kind            BIGINT NOT NULL,
    key             TEXT COLLATE "C" NOT NULL,          -- as in repository_content; of a staged signature: manifest id, reference and fingerprint
    content_id      TEXT COLLATE "C" NOT NULL,
    touched         BIGINT NOT NULL,        -- in microseconds since 1970
    CHECK ((reason = 'staged') = (repository_id IS NULL) AND (reason = 'staged') = (task_id IS NOT NULL))
);

INSERT INTO unversioned_content (reason, repository_id, kind, key, content_id, touched)
SELECT 'pending', repository_id, kind, key, content_id, touched FROM pending_content
UNION ALL SELECT 'fetched', repository_id, kind, key, content_id, touched FROM fetched_content;

-- A task signs one manifest, under one reference, with one key, once.
INSERT INTO unversioned_content (reason, task_id, kind, key, content_id, touched)
SELECT 'staged', s.task_id, 4, s.manifest_id || ' ' || s.reference || ' ' || s.fingerprint, s.signature_id, t.updated
  FROM staged_signature s JOIN task t ON t.id = s.task_id;

DROP TABLE pending_content;
DROP TABLE fetched_content;
DROP TABLE staged_signature;

CREATE UNIQUE INDEX unversioned_content_key ON unversioned_content (repository_id, reason, kind, key);
CREATE UNIQUE INDEX unversioned_content_task ON unversioned_content (task_id, key) WHERE task_id IS NOT NULL;
-- The further columns make SQLite, which has no statistics, prefer this index to unversioned_content_key for one unit of a repository.
CREATE INDEX unversioned_content_unit ON unversioned_content (content_id, repository_id, reason);
-- For sweeps. Other statements do not say "touched >= 0", so no planner prefers these indexes to those above.
CREATE INDEX unversioned_content_pending ON unversioned_content (kind, touched) WHERE reason = 'pending' AND touched >= 0;
CREATE INDEX unversioned_content_fetched ON unversioned_content (touched) WHERE reason = 'fetched' AND touched >= 0;
