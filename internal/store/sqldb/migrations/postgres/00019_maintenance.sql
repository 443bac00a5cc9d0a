-- compatible-from: 13
-- +goose Up

-- Labels of content units (compatibility.md#content-labels). manifest.labels has those of the image's config.
ALTER TABLE blob ADD COLUMN pulp_labels TEXT COLLATE "C" NOT NULL DEFAULT '{}';
ALTER TABLE manifest ADD COLUMN pulp_labels TEXT COLLATE "C" NOT NULL DEFAULT '{}';
ALTER TABLE tag ADD COLUMN pulp_labels TEXT COLLATE "C" NOT NULL DEFAULT '{}';
ALTER TABLE signature ADD COLUMN pulp_labels TEXT COLLATE "C" NOT NULL DEFAULT '{}';

-- Whether a client has uploaded the blob. A reclaim of space keeps such blobs, since no remote need have them. Blobs of earlier versions
-- are not marked. An absent blob that is deleting is released: its file is yet to be deleted.
ALTER TABLE blob ADD COLUMN pushed BOOLEAN NOT NULL DEFAULT FALSE;

-- The role that may set labels of content; internal/access has it too. A role of that name that somebody has made stays.
INSERT INTO role (id, name, locked, created, updated)
SELECT '0199d5a0-0000-7000-8000-000000000119', 'core.content_labeler', TRUE, t.now, t.now
  FROM (SELECT CAST(EXTRACT(EPOCH FROM now()) * 1000000 AS BIGINT) AS now) t
 WHERE NOT EXISTS (SELECT 1 FROM role r WHERE r.name = 'core.content_labeler');
INSERT INTO role_permission (role_id, permission)
SELECT r.id, 'core.manage_content_labels' FROM role r WHERE r.id = '0199d5a0-0000-7000-8000-000000000119';
