-- +goose Up

-- Manifests that were taken out of a repository, and that no version of it holds any more. A pull by digest does not adopt them again.
CREATE TABLE IF NOT EXISTS upstream_removed (
    repository_id   TEXT COLLATE "C" NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
    digest          TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (repository_id, digest)
);
