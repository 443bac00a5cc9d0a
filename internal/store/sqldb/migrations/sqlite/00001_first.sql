-- +goose Up

-- Times are microseconds since 1970 (UTC) in BIGINT, so that both engines order and compare them alike and Pulp's six
-- fractional digits are exact. Ids are UUIDv7 as text. Lists and maps are JSON as text.

CREATE TABLE setting (
    name    TEXT PRIMARY KEY,
    value   BLOB NOT NULL
);

CREATE TABLE account (
    id              INTEGER PRIMARY KEY,
    username        TEXT NOT NULL UNIQUE,
    password_hash   TEXT NOT NULL,
    is_staff        BOOLEAN NOT NULL DEFAULT FALSE,
    is_active       BOOLEAN NOT NULL DEFAULT TRUE,
    created         BIGINT NOT NULL,
    updated         BIGINT NOT NULL
);

CREATE TABLE signing_service (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL UNIQUE,
    class           TEXT NOT NULL,
    kind            TEXT NOT NULL,          -- script, openpgp, pkcs11
    script          TEXT NOT NULL DEFAULT '',
    fingerprint     TEXT NOT NULL,          -- of the primary key: 40 upper-case hex digits
    public_key      TEXT NOT NULL,          -- ASCII armor
    gnupghome       TEXT NOT NULL DEFAULT '',
    config          TEXT NOT NULL DEFAULT '{}',
    created         BIGINT NOT NULL,
    updated         BIGINT NOT NULL
);

CREATE TABLE namespace (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL UNIQUE,
    labels          TEXT NOT NULL DEFAULT '{}',
    created         BIGINT NOT NULL,
    updated         BIGINT NOT NULL
);

CREATE TABLE repository (
    id                      TEXT PRIMARY KEY,
    type                    TEXT NOT NULL,      -- container, container-push
    name                    TEXT NOT NULL UNIQUE,
    description             TEXT,
    labels                  TEXT NOT NULL DEFAULT '{}',
    retain_repo_versions    BIGINT,
    signing_service_id      TEXT REFERENCES signing_service (id) ON DELETE SET NULL,
    made_by_push            BOOLEAN NOT NULL DEFAULT FALSE,  -- compatibility.md#deleting-distributions: goes with its distribution
    latest_version          BIGINT NOT NULL DEFAULT 0,
    next_version            BIGINT NOT NULL DEFAULT 1,       -- numbers are never reused
    created                 BIGINT NOT NULL,
    updated                 BIGINT NOT NULL
);

-- A version carries its counts, so that reading one never counts content.
CREATE TABLE repository_version (
    id                      TEXT PRIMARY KEY,
    repository_id           TEXT NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
    number                  BIGINT NOT NULL,
    blobs_present           BIGINT NOT NULL DEFAULT 0,
    blobs_added             BIGINT NOT NULL DEFAULT 0,
    blobs_removed           BIGINT NOT NULL DEFAULT 0,
    manifests_present       BIGINT NOT NULL DEFAULT 0,
    manifests_added         BIGINT NOT NULL DEFAULT 0,
    manifests_removed       BIGINT NOT NULL DEFAULT 0,
    signatures_present      BIGINT NOT NULL DEFAULT 0,
    signatures_added        BIGINT NOT NULL DEFAULT 0,
    signatures_removed      BIGINT NOT NULL DEFAULT 0,
    tags_present            BIGINT NOT NULL DEFAULT 0,
    tags_added              BIGINT NOT NULL DEFAULT 0,
    tags_removed            BIGINT NOT NULL DEFAULT 0,
    created                 BIGINT NOT NULL,
    updated                 BIGINT NOT NULL,
    UNIQUE (repository_id, number)
);

CREATE TABLE distribution (
    id                      TEXT PRIMARY KEY,
    name                    TEXT NOT NULL UNIQUE,
    base_path               TEXT NOT NULL UNIQUE,
    repository_id           TEXT REFERENCES repository (id) ON DELETE SET NULL,
    repository_version_id   TEXT REFERENCES repository_version (id) ON DELETE SET NULL,
    namespace_id            TEXT NOT NULL REFERENCES namespace (id),
    private                 BOOLEAN NOT NULL DEFAULT FALSE,
    hidden                  BOOLEAN NOT NULL DEFAULT FALSE,
    description             TEXT,
    labels                  TEXT NOT NULL DEFAULT '{}',
    created                 BIGINT NOT NULL,
    updated                 BIGINT NOT NULL
);
CREATE INDEX distribution_repository ON distribution (repository_id);
CREATE INDEX distribution_namespace ON distribution (namespace_id);

-- Content units. A unit exists once; repositories hold it by rows of repository_content.

CREATE TABLE blob (
    id          TEXT PRIMARY KEY,
    digest      TEXT NOT NULL UNIQUE,
    size        BIGINT NOT NULL,
    data        BLOB,               -- the bytes of a small blob; NULL: they are in the storage registry
    location    TEXT NOT NULL DEFAULT '',   -- upstream mode: a name under which the upstream holds the bytes
    deleting    BOOLEAN NOT NULL DEFAULT FALSE,
    created     BIGINT NOT NULL,
    updated     BIGINT NOT NULL
);

CREATE TABLE manifest (
    id              TEXT PRIMARY KEY,
    digest          TEXT NOT NULL UNIQUE,
    media_type      TEXT NOT NULL,
    schema_version  BIGINT NOT NULL,
    payload         BLOB NOT NULL,
    config_digest   TEXT,
    subject         TEXT,
    artifact_type   TEXT NOT NULL DEFAULT '',   -- of the referrers API: artifactType, else the config's media type
    annotations     TEXT NOT NULL DEFAULT '{}',
    labels          TEXT NOT NULL DEFAULT '{}', -- of the image config
    type            TEXT NOT NULL,
    architecture    TEXT,
    os              TEXT,
    image_size      BIGINT,                     -- sum of the layers' sizes in bytes; NULL for lists
    created         BIGINT NOT NULL,
    updated         BIGINT NOT NULL
);
CREATE INDEX manifest_subject ON manifest (subject) WHERE subject IS NOT NULL;

-- What a manifest names, by digest: its config and layers, or its children. The unit may be absent (foreign layers,
-- sparse indexes); whether it is there is a question to repository_content.
CREATE TABLE manifest_blob (
    manifest_id TEXT NOT NULL REFERENCES manifest (id) ON DELETE CASCADE,
    position    BIGINT NOT NULL,    -- -1 is the config
    digest      TEXT NOT NULL,
    PRIMARY KEY (manifest_id, position)
);
CREATE INDEX manifest_blob_digest ON manifest_blob (digest);

CREATE TABLE manifest_child (
    manifest_id TEXT NOT NULL REFERENCES manifest (id) ON DELETE CASCADE,
    position    BIGINT NOT NULL,
    digest      TEXT NOT NULL,
    PRIMARY KEY (manifest_id, position)
);
CREATE INDEX manifest_child_digest ON manifest_child (digest);

CREATE TABLE tag (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    manifest_id TEXT NOT NULL REFERENCES manifest (id),
    created     BIGINT NOT NULL,
    updated     BIGINT NOT NULL,
    UNIQUE (name, manifest_id)
);
CREATE INDEX tag_manifest ON tag (manifest_id);

CREATE TABLE signature (
    id              TEXT PRIMARY KEY,
    digest          TEXT NOT NULL UNIQUE,   -- sha256 of content
    name            TEXT NOT NULL,
    manifest_id     TEXT NOT NULL REFERENCES manifest (id),
    content         BLOB NOT NULL,          -- the OpenPGP message
    key_id          TEXT NOT NULL,
    fingerprint     TEXT,
    verified_by     TEXT NOT NULL DEFAULT '',   -- fingerprint of the primary key that it was verified with; '' is none known
    reference       TEXT NOT NULL,          -- the docker reference it claims
    creator         TEXT NOT NULL DEFAULT '',
    signed_at       BIGINT NOT NULL,        -- seconds since 1970, of the OpenPGP packet
    created         BIGINT NOT NULL,
    updated         BIGINT NOT NULL
);
CREATE INDEX signature_manifest ON signature (manifest_id);
CREATE INDEX signature_key ON signature (key_id);

-- Membership: a unit is in every version from version_added up to, not including, version_removed. key is what it is
-- looked up by inside a repository: a tag's name, else a digest.
CREATE TABLE repository_content (
    repository_id   TEXT NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
    kind            BIGINT NOT NULL,        -- 1 blob, 2 manifest, 3 tag, 4 signature
    key             TEXT NOT NULL,
    content_id      TEXT NOT NULL,
    version_added   BIGINT NOT NULL,
    version_removed BIGINT
);
CREATE UNIQUE INDEX repository_content_present ON repository_content (repository_id, kind, key) WHERE version_removed IS NULL;
CREATE INDEX repository_content_history ON repository_content (repository_id, kind, key, version_added);
CREATE INDEX repository_content_added ON repository_content (repository_id, version_added);
CREATE INDEX repository_content_removed ON repository_content (repository_id, version_removed) WHERE version_removed IS NOT NULL;
CREATE INDEX repository_content_unit ON repository_content (content_id);

-- What was uploaded to a repository and is in no version of it yet (compatibility.md#uploads, compatibility.md#uploaded-signatures, compatibility.md#pending-content).
CREATE TABLE pending_content (
    repository_id   TEXT NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
    kind            BIGINT NOT NULL,
    key             TEXT NOT NULL,
    content_id      TEXT NOT NULL,
    touched         BIGINT NOT NULL,
    PRIMARY KEY (repository_id, kind, key)
);
CREATE INDEX pending_content_unit ON pending_content (content_id);
CREATE INDEX pending_content_touched ON pending_content (kind, touched);

-- An upload in progress. Only the holder of the latest epoch may write or commit.
CREATE TABLE upload (
    id              TEXT PRIMARY KEY,
    repository_id   TEXT NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
    epoch           BIGINT NOT NULL DEFAULT 0,
    size            BIGINT NOT NULL DEFAULT 0,  -- bytes acknowledged
    data            BLOB,                       -- the bytes while they are few
    storage_ref     TEXT NOT NULL DEFAULT '',   -- the storage's own reference once it has the bytes
    created         BIGINT NOT NULL,
    touched         BIGINT NOT NULL
);
CREATE INDEX upload_touched ON upload (touched);

CREATE TABLE worker (
    id              TEXT PRIMARY KEY,
    name            TEXT NOT NULL UNIQUE,
    versions        TEXT NOT NULL DEFAULT '{}',
    services        TEXT NOT NULL DEFAULT '[]', -- names of the signing services that it can use
    started         BIGINT NOT NULL,
    heartbeat       BIGINT NOT NULL
);

CREATE TABLE task (
    id              TEXT PRIMARY KEY,
    seq             BIGINT NOT NULL UNIQUE,     -- order of dispatch
    name            TEXT NOT NULL,
    state           TEXT NOT NULL,
    attempt         BIGINT NOT NULL DEFAULT 0,  -- fences: only the latest attempt may write
    losses          BIGINT NOT NULL DEFAULT 0,  -- attempts that ended with their worker
    args            TEXT NOT NULL DEFAULT '{}',
    resources       TEXT NOT NULL DEFAULT '[]', -- the record of what it reserved; task_resource is the queue
    result          TEXT,
    error           TEXT,
    logging_cid     TEXT NOT NULL DEFAULT '',
    created_by      BIGINT REFERENCES account (id) ON DELETE SET NULL,
    worker_id       TEXT,
    lease_until     BIGINT,
    created_resources TEXT NOT NULL DEFAULT '[]',
    progress        TEXT NOT NULL DEFAULT '[]',
    created         BIGINT NOT NULL,
    updated         BIGINT NOT NULL,
    unblocked       BIGINT,                     -- when every reservation became its own; NULL: it waits behind another
    started         BIGINT,
    finished        BIGINT
);
CREATE INDEX task_ready ON task (seq) WHERE state = 'waiting' AND unblocked IS NOT NULL;
CREATE INDEX task_leased ON task (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX task_state ON task (state, created);
CREATE INDEX task_finished ON task (finished) WHERE finished IS NOT NULL;

-- Reservations: first come, first served per resource. A row is active until its task is final.
CREATE TABLE task_resource (
    task_id     TEXT NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    resource    TEXT NOT NULL,              -- an href
    exclusive   BOOLEAN NOT NULL,
    seq         BIGINT NOT NULL,            -- the task's
    active      BOOLEAN NOT NULL DEFAULT TRUE,
    PRIMARY KEY (task_id, resource)
);
CREATE INDEX task_resource_queue ON task_resource (resource, seq) WHERE active;
CREATE INDEX task_resource_resource ON task_resource (resource);

-- A signature that a running sign task has finished and not yet committed: what a retry of the task need not make again.
CREATE TABLE staged_signature (
    task_id         TEXT NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    manifest_id     TEXT NOT NULL,
    reference       TEXT NOT NULL,
    fingerprint     TEXT NOT NULL,
    signature_id    TEXT NOT NULL REFERENCES signature (id),
    PRIMARY KEY (task_id, manifest_id, reference, fingerprint)
);
CREATE INDEX staged_signature_unit ON staged_signature (signature_id);

-- Upstream mode: tags whose current digest has yet to be written through (architecture, a push, step 5).
CREATE TABLE upstream_tag (
    repository_id   TEXT NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
    name            TEXT NOT NULL,
    written_digest  TEXT NOT NULL DEFAULT '',   -- what we last wrote there; '' is nothing
    dirty           BOOLEAN NOT NULL DEFAULT TRUE,
    attempts        BIGINT NOT NULL DEFAULT 0,
    not_before      BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (repository_id, name)
);
CREATE INDEX upstream_tag_dirty ON upstream_tag (not_before) WHERE dirty;
