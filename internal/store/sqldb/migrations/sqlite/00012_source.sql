-- +goose Up

-- The remotes of which a repository claims a blob: those that listed an image with it at a sync. blob_claim.remote_id is the one that did so last.
CREATE TABLE claim_source (
    repository_id   TEXT NOT NULL,
    blob_id         TEXT NOT NULL,
    remote_id       TEXT NOT NULL REFERENCES remote (id) ON DELETE CASCADE,
    lacked          BIGINT NOT NULL DEFAULT 0,  -- when the remote last said that it has no such blob, in microseconds since 1970; 0 is never
    failed          BIGINT NOT NULL DEFAULT 0,  -- when it last did not give the blob, for any reason
    PRIMARY KEY (repository_id, blob_id, remote_id),
    FOREIGN KEY (repository_id, blob_id) REFERENCES blob_claim (repository_id, blob_id) ON DELETE CASCADE
);
CREATE INDEX claim_source_remote ON claim_source (remote_id, blob_id);

INSERT INTO claim_source (repository_id, blob_id, remote_id) SELECT repository_id, blob_id, remote_id FROM blob_claim WHERE remote_id IS NOT NULL;
