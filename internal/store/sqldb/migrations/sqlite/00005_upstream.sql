-- +goose Up

-- Counts the changes of a tag here: who looked at the upstream in between has seen something else.
ALTER TABLE upstream_tag ADD COLUMN serial BIGINT NOT NULL DEFAULT 1;

-- What the upstream may show under a tag though it is ours no more: writes that were given up and may still arrive, or a tag that it does not delete.
CREATE TABLE upstream_stale (
    repository_id   TEXT NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
    name            TEXT NOT NULL,
    digest          TEXT NOT NULL,
    ends            BIGINT NOT NULL,        -- when it counts no more, in microseconds since 1970
    PRIMARY KEY (repository_id, name, digest)
);

-- Manifests that a hidden tag keeps alive upstream, because no other tag does there.
CREATE TABLE upstream_keep (
    repository_id   TEXT NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
    digest          TEXT NOT NULL,
    PRIMARY KEY (repository_id, digest)
);

-- In what the upstream differed from a repository when they were last compared.
CREATE TABLE upstream_drift (
    repository_id   TEXT NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
    kind            TEXT NOT NULL,         -- tag, manifest, blob
    name            TEXT NOT NULL,         -- the tag, or the digest
    here            TEXT NOT NULL,         -- the digest here; '' is nothing
    upstream        TEXT NOT NULL,         -- the digest there; '' is nothing
    note            TEXT NOT NULL,         -- what becomes of it
    found           BIGINT NOT NULL,
    PRIMARY KEY (repository_id, kind, name)
);

-- When a repository was last compared with the upstream, in microseconds since 1970; 0 is never.
ALTER TABLE repository ADD COLUMN compared BIGINT NOT NULL DEFAULT 0;
