-- compatible-from: 14
-- +goose Up

-- Pull-through caches. Nothing that earlier versions read or write is changed.

-- A registry whose repositories pull-through caches fetch. includes and excludes are patterns of their names.
CREATE TABLE pull_through_remote (
    id              TEXT COLLATE "C" PRIMARY KEY,
    name            TEXT COLLATE "C" NOT NULL UNIQUE,
    url             TEXT COLLATE "C" NOT NULL,
    includes        TEXT COLLATE "C",
    excludes        TEXT COLLATE "C",
    sigstore        TEXT COLLATE "C",
    connection      TEXT COLLATE "C" NOT NULL DEFAULT '{}',
    secrets         TEXT COLLATE "C" NOT NULL DEFAULT '{}',
    labels          TEXT COLLATE "C" NOT NULL DEFAULT '{}',
    created         BIGINT NOT NULL,
    updated         BIGINT NOT NULL
);

-- A path below which pulls create repositories. Without a remote it serves the present ones only.
CREATE TABLE pull_through_distribution (
    id              TEXT COLLATE "C" PRIMARY KEY,
    name            TEXT COLLATE "C" NOT NULL UNIQUE,
    base_path       TEXT COLLATE "C" NOT NULL UNIQUE,
    remote_id       TEXT COLLATE "C" REFERENCES pull_through_remote (id) ON DELETE SET NULL,
    namespace_id    TEXT COLLATE "C" NOT NULL REFERENCES namespace (id) ON DELETE CASCADE,
    private         BOOLEAN NOT NULL DEFAULT FALSE,
    hidden          BOOLEAN NOT NULL DEFAULT FALSE,
    description     TEXT COLLATE "C",
    labels          TEXT COLLATE "C" NOT NULL DEFAULT '{}',
    created         BIGINT NOT NULL,
    updated         BIGINT NOT NULL
);
CREATE INDEX pull_through_distribution_remote ON pull_through_distribution (remote_id);
CREATE INDEX pull_through_distribution_namespace ON pull_through_distribution (namespace_id);

-- The cache whose pull created a distribution. It passes on its roles and private.
ALTER TABLE distribution ADD COLUMN pull_through_id TEXT COLLATE "C" REFERENCES pull_through_distribution (id) ON DELETE SET NULL;
CREATE INDEX distribution_pull_through ON distribution (pull_through_id) WHERE pull_through_id IS NOT NULL;

-- The remote that a cached repository's remote takes URL, connection, secrets and sigstore from. The row has no secrets itself.
ALTER TABLE remote ADD COLUMN pull_through_id TEXT COLLATE "C" REFERENCES pull_through_remote (id) ON DELETE CASCADE;
CREATE INDEX remote_pull_through ON remote (pull_through_id) WHERE pull_through_id IS NOT NULL;

CREATE TRIGGER pull_through_remote_assignments AFTER DELETE ON pull_through_remote FOR EACH ROW EXECUTE FUNCTION delete_assignments('pull_through_remote');
CREATE TRIGGER pull_through_distribution_assignments AFTER DELETE ON pull_through_distribution FOR EACH ROW EXECUTE FUNCTION delete_assignments('pull_through_distribution');
