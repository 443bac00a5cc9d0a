-- compatible-from: 14
-- +goose Up

-- Webhooks, and the events that they receive (docs/webhooks.md). Processes of the previous version record no events.

CREATE TABLE webhook (
    id               TEXT PRIMARY KEY,
    name             TEXT NOT NULL UNIQUE,
    url              TEXT NOT NULL,
    secret           TEXT NOT NULL,
    old_secret       TEXT,                    -- also signs until old_secret_until
    old_secret_until BIGINT,
    patterns         TEXT NOT NULL,           -- JSON list of patterns of repository names
    event_types      TEXT,                    -- JSON list; NULL: all types
    active           BOOLEAN NOT NULL,
    headers          TEXT NOT NULL,           -- JSON object; the values may be secrets
    ca_cert          TEXT,
    tls_validation   BOOLEAN NOT NULL,
    owner_id         BIGINT REFERENCES account (id) ON DELETE SET NULL, -- NULL: deleted; nothing is delivered
    created          BIGINT NOT NULL,
    updated          BIGINT NOT NULL
);
CREATE INDEX webhook_active ON webhook (id) WHERE active;
CREATE INDEX webhook_owner ON webhook (owner_id) WHERE owner_id IS NOT NULL;

-- An event exists as long as one of its deliveries does.
CREATE TABLE webhook_event (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,
    id               TEXT NOT NULL UNIQUE,
    type             TEXT NOT NULL,
    repository_id    TEXT NOT NULL,           -- '': none; the repository may be deleted
    path             TEXT NOT NULL,
    subject          TEXT NOT NULL,
    at               BIGINT NOT NULL,
    data             TEXT NOT NULL
);

-- The tables below have no foreign keys to webhook, so that no push waits for a change of a webhook. The rows of deleted
-- webhooks are deleted later.
CREATE TABLE webhook_delivery (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,
    id               TEXT NOT NULL UNIQUE,
    webhook_id       TEXT NOT NULL,
    stream           TEXT NOT NULL,           -- of webhook_stream
    event_seq        BIGINT NOT NULL REFERENCES webhook_event (seq),
    once             BOOLEAN NOT NULL,       -- it is attempted once only
    state            TEXT NOT NULL,           -- waiting, delivered, failed
    attempts         BIGINT NOT NULL DEFAULT 0,
    status           BIGINT,                 -- of the last attempt's response
    error            TEXT NOT NULL DEFAULT '',-- of the last attempt
    created          BIGINT NOT NULL,
    updated          BIGINT NOT NULL
);
CREATE INDEX webhook_delivery_waiting ON webhook_delivery (webhook_id, stream, seq) WHERE state = 'waiting';
CREATE INDEX webhook_delivery_waiting_seq ON webhook_delivery (webhook_id, seq) WHERE state = 'waiting';
CREATE INDEX webhook_delivery_list ON webhook_delivery (webhook_id, created, id);
CREATE INDEX webhook_delivery_event ON webhook_delivery (event_seq);
CREATE INDEX webhook_delivery_ended ON webhook_delivery (updated) WHERE state <> 'waiting';

-- A queue of deliveries that are made one after the other: those to one webhook about one repository.
CREATE TABLE webhook_stream (
    webhook_id       TEXT NOT NULL,
    stream           TEXT NOT NULL,           -- the id of a repository; 'server': about no repository; 'manual': requested by a user
    due              BIGINT NOT NULL,        -- the time of the next attempt, or the end of the lease of the process that delivers
    holder           TEXT NOT NULL DEFAULT '',-- the process that delivers; '': none
    fence            BIGINT NOT NULL,        -- rises with each claim; a new stream has that of its time in microseconds
    serial           BIGINT NOT NULL,        -- the number of times that deliveries were added
    failures         BIGINT NOT NULL DEFAULT 0, -- failed attempts since the last success
    failing_since    BIGINT,
    lost             BIGINT NOT NULL DEFAULT 0, -- events that were dropped and not yet reported to the receiver
    lost_id          TEXT NOT NULL DEFAULT '',-- the id of the event that reports them
    lost_first       BIGINT,
    lost_last        BIGINT,
    lost_seq         BIGINT NOT NULL DEFAULT 0, -- of the last lost event
    PRIMARY KEY (webhook_id, stream)
);
CREATE INDEX webhook_stream_due ON webhook_stream (webhook_id, due);

-- Webhooks whose deliveries and attempts are still to be deleted.
CREATE TABLE webhook_deleted (
    id               TEXT PRIMARY KEY,
    at               BIGINT NOT NULL
);

CREATE TABLE webhook_attempt (
    id               TEXT PRIMARY KEY,
    webhook_id       TEXT NOT NULL,
    delivery_id      TEXT NOT NULL,           -- '': the report of lost events
    repository_id    TEXT NOT NULL,
    event_id         TEXT NOT NULL,
    event_type       TEXT NOT NULL,
    at               BIGINT NOT NULL,
    duration         BIGINT NOT NULL,        -- microseconds
    status           BIGINT,                 -- NULL: no response
    error            TEXT NOT NULL            -- '': the receiver has accepted the event
);
CREATE INDEX webhook_attempt_list ON webhook_attempt (webhook_id, at, id);

-- Assignments of roles end with their webhook.
-- +goose StatementBegin
CREATE TRIGGER webhook_assignments AFTER DELETE ON webhook BEGIN
    DELETE FROM role_assignment WHERE object = 'webhook:' || OLD.id;
END;
-- +goose StatementEnd

-- The locked roles; internal/access has the same list.
INSERT INTO role (id, name, locked, created, updated)
SELECT v.id, v.name, TRUE, t.now, t.now FROM (
    SELECT '0199d5a0-0000-7000-8000-000000160001' AS id, 'countersign.webhook_creator' AS name
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000160002', 'countersign.webhook_owner'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000160003', 'countersign.webhook_viewer'
) v CROSS JOIN (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS BIGINT) AS now) t;

INSERT INTO role_permission (role_id, permission)
SELECT r.id, v.permission FROM role r JOIN (
    SELECT 'countersign.webhook_creator' AS name, 'countersign.add_webhook' AS permission
    UNION ALL SELECT 'countersign.webhook_owner', 'countersign.view_webhook'
    UNION ALL SELECT 'countersign.webhook_owner', 'countersign.change_webhook'
    UNION ALL SELECT 'countersign.webhook_owner', 'countersign.delete_webhook'
    UNION ALL SELECT 'countersign.webhook_owner', 'countersign.manage_roles_webhook'
    UNION ALL SELECT 'countersign.webhook_viewer', 'countersign.view_webhook'
) v ON v.name = r.name;
