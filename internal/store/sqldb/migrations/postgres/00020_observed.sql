-- compatible-from: 13
-- +goose Up

-- The trace to which a task belongs, as a W3C traceparent; '' for none.
ALTER TABLE task ADD COLUMN traceparent TEXT NOT NULL DEFAULT '';
-- The time since which a tag has been in the outbox; 0 for entries of earlier versions.
ALTER TABLE upstream_tag ADD COLUMN since BIGINT NOT NULL DEFAULT 0;
UPDATE upstream_tag SET since = CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT) WHERE dirty;
