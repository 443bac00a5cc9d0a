-- +goose Up

-- Where a repository is mirrored from (compatibility.md#remotes). Lists are NULL when none were given.
CREATE TABLE remote (
    id              TEXT COLLATE "C" PRIMARY KEY,
    name            TEXT COLLATE "C" NOT NULL UNIQUE,
    url             TEXT COLLATE "C" NOT NULL,
    upstream_name   TEXT COLLATE "C" NOT NULL,
    policy          TEXT COLLATE "C" NOT NULL,              -- immediate, on_demand, streamed
    includes        TEXT COLLATE "C",
    excludes        TEXT COLLATE "C",
    sigstore        TEXT COLLATE "C",
    connection      TEXT COLLATE "C" NOT NULL DEFAULT '{}', -- how to reach it: certificates, proxy, timeouts, limits
    secrets         TEXT COLLATE "C" NOT NULL DEFAULT '{}', -- what is never shown
    labels          TEXT COLLATE "C" NOT NULL DEFAULT '{}',
    created         BIGINT NOT NULL,
    updated         BIGINT NOT NULL
);

ALTER TABLE repository ADD COLUMN remote_id TEXT COLLATE "C" REFERENCES remote (id) ON DELETE SET NULL;
CREATE INDEX repository_remote ON repository (remote_id) WHERE remote_id IS NOT NULL;
CREATE INDEX distribution_version ON distribution (repository_version_id) WHERE repository_version_id IS NOT NULL;

-- An absent blob is one of whose bytes the server has none: repositories have claims alone.
ALTER TABLE blob ADD COLUMN absent BOOLEAN NOT NULL DEFAULT FALSE;

-- Remotes that have a blob: to repair a broken one.
CREATE TABLE blob_source (
    blob_id         TEXT COLLATE "C" NOT NULL REFERENCES blob (id) ON DELETE CASCADE,
    remote_id       TEXT COLLATE "C" NOT NULL REFERENCES remote (id) ON DELETE CASCADE,
    PRIMARY KEY (blob_id, remote_id)
);
CREATE INDEX blob_source_remote ON blob_source (remote_id);

-- What a sync has fetched for a repository and no version of it holds yet: the next sync need not fetch it again. Nobody is served from it.
CREATE TABLE fetched_content (
    repository_id   TEXT COLLATE "C" NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
    kind            BIGINT NOT NULL,
    key             TEXT COLLATE "C" NOT NULL,
    content_id      TEXT COLLATE "C" NOT NULL,
    touched         BIGINT NOT NULL,
    PRIMARY KEY (repository_id, kind, key)
);
CREATE INDEX fetched_content_unit ON fetched_content (content_id);
CREATE INDEX fetched_content_touched ON fetched_content (touched);

-- A repository's word for a blob of which it knows digest and size alone: that a remote has it. Until the bytes have come from that remote the repository hands
-- out no others', whoever has them.
CREATE TABLE blob_claim (
    repository_id   TEXT COLLATE "C" NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
    blob_id         TEXT COLLATE "C" NOT NULL REFERENCES blob (id) ON DELETE CASCADE,
    remote_id       TEXT COLLATE "C" REFERENCES remote (id) ON DELETE SET NULL,  -- NULL: the bytes can be had no more
    size            BIGINT NOT NULL,
    PRIMARY KEY (repository_id, blob_id)
);
CREATE INDEX blob_claim_blob ON blob_claim (blob_id);
CREATE INDEX blob_claim_remote ON blob_claim (remote_id);

-- A layer that is to be had elsewhere need not be here (compatibility.md#absent-parts).
ALTER TABLE manifest_blob ADD COLUMN optional BOOLEAN NOT NULL DEFAULT FALSE;

-- A task that signs is for workers that can use its signing service (compatibility.md#key-location); NULL: any worker will do.
ALTER TABLE task ADD COLUMN service_id TEXT COLLATE "C";
