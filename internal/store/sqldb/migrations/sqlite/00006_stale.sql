-- +goose Up

-- The form of 00005 that landed first had no such table; what is there already stays.
CREATE TABLE IF NOT EXISTS upstream_stale (
    repository_id   TEXT NOT NULL REFERENCES repository (id) ON DELETE CASCADE,
    name            TEXT NOT NULL,
    digest          TEXT NOT NULL,
    ends            BIGINT NOT NULL,        -- when it counts no more, in microseconds since 1970
    PRIMARY KEY (repository_id, name, digest)
);
