-- +goose Up

-- Whether a sync may remove more than half of the tags that the remote listed before.
ALTER TABLE repository ADD COLUMN allow_shrink BOOLEAN NOT NULL DEFAULT FALSE;

-- How many tags a remote repository listed, before filters, when a sync of it last succeeded. A sync that mirrors compares its list with that.
CREATE TABLE listed_tags (
    repository_id   TEXT NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
    url             TEXT NOT NULL,
    upstream_name   TEXT NOT NULL,
    tags            BIGINT NOT NULL,
    updated         BIGINT NOT NULL,
    PRIMARY KEY (repository_id, url, upstream_name)
);

-- Repositories that were synced before this table existed begin with the number of tags that they hold (kind 3).
INSERT INTO listed_tags (repository_id, url, upstream_name, tags, updated)
SELECT r.id, RTRIM(m.url, '/'), m.upstream_name, COUNT(*), r.updated
  FROM repository r
  JOIN remote m ON m.id = r.remote_id
  JOIN repository_content c ON c.repository_id = r.id AND c.kind = 3 AND c.version_removed IS NULL
 GROUP BY r.id, m.url, m.upstream_name, r.updated;
