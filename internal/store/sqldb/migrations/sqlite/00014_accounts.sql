-- compatible-from: 14
-- +goose Up

-- Users, groups, roles, API tokens and the audit log. Nothing that earlier versions read or write is changed.

-- kind: user (a password of its own), robot (of a namespace; API tokens only), external (a person that another source confirms), oidc (the
-- identity of a rule for CI tokens; its rights come from the configuration).
ALTER TABLE account ADD COLUMN kind TEXT NOT NULL DEFAULT 'user';
-- The source that confirms an external account: ldap, htpasswd, oidc; '' for others.
ALTER TABLE account ADD COLUMN source TEXT NOT NULL DEFAULT '';
-- The identity there, which outlives changes of the name; '' if the source has none.
ALTER TABLE account ADD COLUMN external_id TEXT NOT NULL DEFAULT '';
-- The time of the latest confirmation by the source.
ALTER TABLE account ADD COLUMN checked BIGINT;
-- The namespace that a robot belongs to and is deleted with.
ALTER TABLE account ADD COLUMN namespace_id TEXT REFERENCES namespace (id) ON DELETE CASCADE;
ALTER TABLE account ADD COLUMN first_name TEXT NOT NULL DEFAULT '';
ALTER TABLE account ADD COLUMN last_name TEXT NOT NULL DEFAULT '';
ALTER TABLE account ADD COLUMN email TEXT NOT NULL DEFAULT '';
ALTER TABLE account ADD COLUMN description TEXT;
CREATE INDEX account_namespace ON account (namespace_id) WHERE namespace_id IS NOT NULL;
CREATE UNIQUE INDEX account_external ON account (source, external_id) WHERE external_id <> '';

CREATE TABLE account_group (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    name        TEXT NOT NULL UNIQUE,
    created     BIGINT NOT NULL,
    updated     BIGINT NOT NULL
);

CREATE TABLE account_group_member (
    group_id    BIGINT NOT NULL REFERENCES account_group (id) ON DELETE CASCADE,
    account_id  BIGINT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    source      TEXT NOT NULL DEFAULT '',     -- '': added by hand; else the source that maintains the membership
    PRIMARY KEY (group_id, account_id, source)
);
CREATE INDEX account_group_member_account ON account_group_member (account_id, group_id);

CREATE TABLE role (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL UNIQUE,
    description TEXT,
    locked      BOOLEAN NOT NULL DEFAULT FALSE,     -- defined by the program, which stores its permissions when it migrates
    created     BIGINT NOT NULL,
    updated     BIGINT NOT NULL
);

CREATE TABLE role_permission (
    role_id     TEXT NOT NULL REFERENCES role (id) ON DELETE CASCADE,
    permission  TEXT NOT NULL,
    PRIMARY KEY (role_id, permission)
);
CREATE INDEX role_permission_permission ON role_permission (permission, role_id);

-- A role of an account or of a group. object is '' for all objects of the server, else kind:id with one of the kinds repository,
-- distribution, remote, namespace, task, group, signing_service.
CREATE TABLE role_assignment (
    id          TEXT PRIMARY KEY,
    role_id     TEXT NOT NULL REFERENCES role (id) ON DELETE CASCADE,
    account_id  BIGINT REFERENCES account (id) ON DELETE CASCADE,
    group_id    BIGINT REFERENCES account_group (id) ON DELETE CASCADE,
    object      TEXT NOT NULL DEFAULT '',
    created     BIGINT NOT NULL,
    updated     BIGINT NOT NULL,
    CHECK ((account_id IS NULL) <> (group_id IS NULL))
);
CREATE UNIQUE INDEX role_assignment_account ON role_assignment (account_id, object, role_id) WHERE account_id IS NOT NULL;
CREATE UNIQUE INDEX role_assignment_group ON role_assignment (group_id, object, role_id) WHERE group_id IS NOT NULL;
CREATE INDEX role_assignment_object ON role_assignment (object);
CREATE INDEX role_assignment_role ON role_assignment (role_id);

CREATE TABLE api_token (
    id          TEXT PRIMARY KEY,
    account_id  BIGINT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    -- The token that created this one and is deleted with it; NULL: none did.
    parent_id   TEXT REFERENCES api_token (id) ON DELETE CASCADE,
    name        TEXT NOT NULL,
    hash        TEXT NOT NULL UNIQUE,         -- sha256 of the secret, hex
    hint        TEXT NOT NULL,                -- the first characters of the secret
    patterns    TEXT,                         -- JSON list of patterns of names; NULL: all names
    actions     TEXT,                         -- JSON list; NULL: all actions
    expires     BIGINT,                        -- NULL: never
    last_used   BIGINT,                        -- about; NULL: never
    created     BIGINT NOT NULL,
    updated     BIGINT NOT NULL
);
CREATE INDEX api_token_account ON api_token (account_id);
CREATE INDEX api_token_parent ON api_token (parent_id) WHERE parent_id IS NOT NULL;

CREATE TABLE audit_entry (
    id          TEXT PRIMARY KEY,
    at          BIGINT NOT NULL,
    actor       TEXT NOT NULL,
    actor_id    BIGINT,                        -- of the account, which may be deleted since; NULL: none
    actor_kind  TEXT NOT NULL,
    identity    TEXT NOT NULL DEFAULT '',     -- the API token, or the rule with the subject, that authenticated the actor
    address     TEXT NOT NULL DEFAULT '',
    action      TEXT NOT NULL,
    object      TEXT NOT NULL,
    result      TEXT NOT NULL,                -- done, denied, failed
    status      BIGINT,                        -- of the HTTP response
    count       BIGINT NOT NULL DEFAULT 1,     -- repeated denials are one entry
    correlation TEXT NOT NULL DEFAULT '',
    details     TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_entry_at ON audit_entry (at);
CREATE INDEX audit_entry_actor ON audit_entry (actor, at);
CREATE INDEX audit_entry_object ON audit_entry (object, at);

-- The author of a version, and so of its changes of tags. '' for versions that earlier versions of the program made.
ALTER TABLE repository_version ADD COLUMN actor TEXT NOT NULL DEFAULT '';
ALTER TABLE repository_version ADD COLUMN actor_id BIGINT;

-- The largest id of a deleted account: ids are not used again, because the audit log and the authors of versions refer to them.
CREATE TABLE account_serial (last BIGINT NOT NULL);
INSERT INTO account_serial (last) VALUES (0);
-- +goose StatementBegin
CREATE TRIGGER account_deleted AFTER DELETE ON account BEGIN
    UPDATE account_serial SET last = MAX(last, OLD.id);
END;
-- +goose StatementEnd

-- Accounts that are not administrators used to own the namespace of their name. The role's permissions are stored by the program.
INSERT INTO role (id, name, locked, created, updated)
SELECT '0199d5a0-0000-7000-8000-000000000001', 'container.containernamespace_owner', TRUE, n.now, n.now FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS BIGINT) AS now) n;
INSERT INTO role_assignment (id, role_id, account_id, object, created, updated)
SELECT lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-a' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))), '0199d5a0-0000-7000-8000-000000000001', a.id, 'namespace:' || n.id, t.now, t.now
  FROM account a JOIN namespace n ON n.name = a.username CROSS JOIN (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS BIGINT) AS now) t WHERE NOT a.is_staff;

-- Assignments end with their objects. Ids are never used again.
-- +goose StatementBegin
CREATE TRIGGER repository_assignments AFTER DELETE ON repository BEGIN
    DELETE FROM role_assignment WHERE object = 'repository:' || OLD.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER distribution_assignments AFTER DELETE ON distribution BEGIN
    DELETE FROM role_assignment WHERE object = 'distribution:' || OLD.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER remote_assignments AFTER DELETE ON remote BEGIN
    DELETE FROM role_assignment WHERE object = 'remote:' || OLD.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER namespace_assignments AFTER DELETE ON namespace BEGIN
    DELETE FROM role_assignment WHERE object = 'namespace:' || OLD.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER task_assignments AFTER DELETE ON task BEGIN
    DELETE FROM role_assignment WHERE object = 'task:' || OLD.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER account_group_assignments AFTER DELETE ON account_group BEGIN
    DELETE FROM role_assignment WHERE object = 'group:' || OLD.id;
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER signing_service_assignments AFTER DELETE ON signing_service BEGIN
    DELETE FROM role_assignment WHERE object = 'signing_service:' || OLD.id;
END;
-- +goose StatementEnd

-- The locked roles; internal/access has the same list.
INSERT INTO role (id, name, locked, created, updated)
SELECT v.id, v.name, TRUE, t.now, t.now FROM (
    SELECT '0199d5a0-0000-7000-8000-000000000002' AS id, 'container.containerrepository_creator' AS name
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000003', 'container.containerrepository_owner'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000004', 'container.containerrepository_content_manager'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000005', 'container.containerrepository_viewer'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000006', 'container.containerremote_creator'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000007', 'container.containerremote_owner'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000008', 'container.containerremote_viewer'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000009', 'container.containerpullthroughremote_creator'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000010', 'container.containerpullthroughremote_owner'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000011', 'container.containerpullthroughremote_viewer'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000012', 'container.containerdistribution_creator'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000013', 'container.containerdistribution_owner'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000014', 'container.containerdistribution_collaborator'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000015', 'container.containerdistribution_consumer'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000016', 'container.containerpullthroughdistribution_creator'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000017', 'container.containerpullthroughdistribution_owner'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000018', 'container.containerpullthroughdistribution_collaborator'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000019', 'container.containerpullthroughdistribution_consumer'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000020', 'container.containernamespace_creator'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000021', 'container.containernamespace_collaborator'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000022', 'container.containernamespace_consumer'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000023', 'core.task_owner'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000024', 'core.task_viewer'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000025', 'core.task_user_dispatcher'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000026', 'core.group_creator'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000027', 'core.group_owner'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000028', 'core.group_viewer'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000029', 'core.user_creator'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000030', 'core.user_owner'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000031', 'core.user_viewer'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000032', 'core.signingservice_user'
    UNION ALL SELECT '0199d5a0-0000-7000-8000-000000000033', 'core.signingservice_owner'
) v CROSS JOIN (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS BIGINT) AS now) t;

INSERT INTO role_permission (role_id, permission)
SELECT r.id, v.permission FROM role r JOIN (
    SELECT 'container.containerrepository_creator' AS name, 'container.add_containerrepository' AS permission
    UNION ALL SELECT 'container.containerrepository_owner', 'container.view_containerrepository'
    UNION ALL SELECT 'container.containerrepository_owner', 'container.change_containerrepository'
    UNION ALL SELECT 'container.containerrepository_owner', 'container.delete_containerrepository'
    UNION ALL SELECT 'container.containerrepository_owner', 'container.delete_containerrepository_versions'
    UNION ALL SELECT 'container.containerrepository_owner', 'container.sync_containerrepository'
    UNION ALL SELECT 'container.containerrepository_owner', 'container.modify_content_containerrepository'
    UNION ALL SELECT 'container.containerrepository_owner', 'container.build_image_containerrepository'
    UNION ALL SELECT 'container.containerrepository_owner', 'container.manage_roles_containerrepository'
    UNION ALL SELECT 'container.containerrepository_content_manager', 'container.view_containerrepository'
    UNION ALL SELECT 'container.containerrepository_content_manager', 'container.delete_containerrepository_versions'
    UNION ALL SELECT 'container.containerrepository_content_manager', 'container.sync_containerrepository'
    UNION ALL SELECT 'container.containerrepository_content_manager', 'container.modify_content_containerrepository'
    UNION ALL SELECT 'container.containerrepository_content_manager', 'container.build_image_containerrepository'
    UNION ALL SELECT 'container.containerrepository_viewer', 'container.view_containerrepository'
    UNION ALL SELECT 'container.containerremote_creator', 'container.add_containerremote'
    UNION ALL SELECT 'container.containerremote_owner', 'container.view_containerremote'
    UNION ALL SELECT 'container.containerremote_owner', 'container.change_containerremote'
    UNION ALL SELECT 'container.containerremote_owner', 'container.delete_containerremote'
    UNION ALL SELECT 'container.containerremote_owner', 'container.manage_roles_containerremote'
    UNION ALL SELECT 'container.containerremote_viewer', 'container.view_containerremote'
    UNION ALL SELECT 'container.containerpullthroughremote_creator', 'container.add_containerpullthroughremote'
    UNION ALL SELECT 'container.containerpullthroughremote_owner', 'container.view_containerpullthroughremote'
    UNION ALL SELECT 'container.containerpullthroughremote_owner', 'container.change_containerpullthroughremote'
    UNION ALL SELECT 'container.containerpullthroughremote_owner', 'container.delete_containerpullthroughremote'
    UNION ALL SELECT 'container.containerpullthroughremote_owner', 'container.manage_roles_containerpullthroughremote'
    UNION ALL SELECT 'container.containerpullthroughremote_viewer', 'container.view_containerpullthroughremote'
    UNION ALL SELECT 'container.containerdistribution_creator', 'container.add_containerdistribution'
    UNION ALL SELECT 'container.containerdistribution_owner', 'container.view_containerdistribution'
    UNION ALL SELECT 'container.containerdistribution_owner', 'container.pull_containerdistribution'
    UNION ALL SELECT 'container.containerdistribution_owner', 'container.push_containerdistribution'
    UNION ALL SELECT 'container.containerdistribution_owner', 'container.delete_containerdistribution'
    UNION ALL SELECT 'container.containerdistribution_owner', 'container.change_containerdistribution'
    UNION ALL SELECT 'container.containerdistribution_owner', 'container.manage_roles_containerdistribution'
    UNION ALL SELECT 'container.containerdistribution_collaborator', 'container.view_containerdistribution'
    UNION ALL SELECT 'container.containerdistribution_collaborator', 'container.pull_containerdistribution'
    UNION ALL SELECT 'container.containerdistribution_collaborator', 'container.push_containerdistribution'
    UNION ALL SELECT 'container.containerdistribution_consumer', 'container.view_containerdistribution'
    UNION ALL SELECT 'container.containerdistribution_consumer', 'container.pull_containerdistribution'
    UNION ALL SELECT 'container.containerpullthroughdistribution_creator', 'container.add_containerpullthroughdistribution'
    UNION ALL SELECT 'container.containerpullthroughdistribution_owner', 'container.view_containerpullthroughdistribution'
    UNION ALL SELECT 'container.containerpullthroughdistribution_owner', 'container.delete_containerpullthroughdistribution'
    UNION ALL SELECT 'container.containerpullthroughdistribution_owner', 'container.change_containerpullthroughdistribution'
    UNION ALL SELECT 'container.containerpullthroughdistribution_owner', 'container.manage_roles_containerpullthroughdistribution'
    UNION ALL SELECT 'container.containerpullthroughdistribution_owner', 'container.pull_new_containerdistribution'
    UNION ALL SELECT 'container.containerpullthroughdistribution_collaborator', 'container.view_containerpullthroughdistribution'
    UNION ALL SELECT 'container.containerpullthroughdistribution_collaborator', 'container.pull_new_containerdistribution'
    UNION ALL SELECT 'container.containerpullthroughdistribution_consumer', 'container.view_containerpullthroughdistribution'
    UNION ALL SELECT 'container.containerpullthroughdistribution_consumer', 'container.pull_new_containerdistribution'
    UNION ALL SELECT 'container.containernamespace_creator', 'container.add_containernamespace'
    UNION ALL SELECT 'container.containernamespace_owner', 'container.view_containernamespace'
    UNION ALL SELECT 'container.containernamespace_owner', 'container.namespace_add_containerdistribution'
    UNION ALL SELECT 'container.containernamespace_owner', 'container.namespace_delete_containerdistribution'
    UNION ALL SELECT 'container.containernamespace_owner', 'container.namespace_view_containerdistribution'
    UNION ALL SELECT 'container.containernamespace_owner', 'container.namespace_pull_containerdistribution'
    UNION ALL SELECT 'container.containernamespace_owner', 'container.namespace_push_containerdistribution'
    UNION ALL SELECT 'container.containernamespace_owner', 'container.namespace_change_containerdistribution'
    UNION ALL SELECT 'container.containernamespace_owner', 'container.namespace_view_containerpushrepository'
    UNION ALL SELECT 'container.containernamespace_owner', 'container.namespace_modify_content_containerpushrepository'
    UNION ALL SELECT 'container.containernamespace_owner', 'container.namespace_change_containerpushrepository'
    UNION ALL SELECT 'container.containernamespace_owner', 'container.namespace_view_containerrepository'
    UNION ALL SELECT 'container.containernamespace_owner', 'container.namespace_modify_content_containerrepository'
    UNION ALL SELECT 'container.containernamespace_owner', 'container.namespace_change_containerrepository'
    UNION ALL SELECT 'container.containernamespace_owner', 'container.delete_containernamespace'
    UNION ALL SELECT 'container.containernamespace_owner', 'container.manage_roles_containernamespace'
    UNION ALL SELECT 'container.containernamespace_collaborator', 'container.view_containernamespace'
    UNION ALL SELECT 'container.containernamespace_collaborator', 'container.namespace_add_containerdistribution'
    UNION ALL SELECT 'container.containernamespace_collaborator', 'container.namespace_delete_containerdistribution'
    UNION ALL SELECT 'container.containernamespace_collaborator', 'container.namespace_view_containerdistribution'
    UNION ALL SELECT 'container.containernamespace_collaborator', 'container.namespace_pull_containerdistribution'
    UNION ALL SELECT 'container.containernamespace_collaborator', 'container.namespace_push_containerdistribution'
    UNION ALL SELECT 'container.containernamespace_collaborator', 'container.namespace_change_containerdistribution'
    UNION ALL SELECT 'container.containernamespace_collaborator', 'container.namespace_view_containerpushrepository'
    UNION ALL SELECT 'container.containernamespace_collaborator', 'container.namespace_modify_content_containerpushrepository'
    UNION ALL SELECT 'container.containernamespace_collaborator', 'container.namespace_change_containerpushrepository'
    UNION ALL SELECT 'container.containernamespace_collaborator', 'container.namespace_view_containerrepository'
    UNION ALL SELECT 'container.containernamespace_collaborator', 'container.namespace_modify_content_containerrepository'
    UNION ALL SELECT 'container.containernamespace_collaborator', 'container.namespace_change_containerrepository'
    UNION ALL SELECT 'container.containernamespace_consumer', 'container.view_containernamespace'
    UNION ALL SELECT 'container.containernamespace_consumer', 'container.namespace_view_containerdistribution'
    UNION ALL SELECT 'container.containernamespace_consumer', 'container.namespace_pull_containerdistribution'
    UNION ALL SELECT 'container.containernamespace_consumer', 'container.namespace_view_containerpushrepository'
    UNION ALL SELECT 'container.containernamespace_consumer', 'container.namespace_view_containerrepository'
    UNION ALL SELECT 'core.task_owner', 'core.view_task'
    UNION ALL SELECT 'core.task_owner', 'core.change_task'
    UNION ALL SELECT 'core.task_owner', 'core.delete_task'
    UNION ALL SELECT 'core.task_owner', 'core.manage_roles_task'
    UNION ALL SELECT 'core.task_viewer', 'core.view_task'
    UNION ALL SELECT 'core.task_user_dispatcher', 'core.view_task'
    UNION ALL SELECT 'core.group_creator', 'core.add_group'
    UNION ALL SELECT 'core.group_owner', 'core.view_group'
    UNION ALL SELECT 'core.group_owner', 'core.change_group'
    UNION ALL SELECT 'core.group_owner', 'core.delete_group'
    UNION ALL SELECT 'core.group_owner', 'core.manage_roles_group'
    UNION ALL SELECT 'core.group_viewer', 'core.view_group'
    UNION ALL SELECT 'core.user_creator', 'core.add_user'
    UNION ALL SELECT 'core.user_owner', 'core.view_user'
    UNION ALL SELECT 'core.user_owner', 'core.change_user'
    UNION ALL SELECT 'core.user_owner', 'core.delete_user'
    UNION ALL SELECT 'core.user_viewer', 'core.view_user'
    UNION ALL SELECT 'core.signingservice_user', 'core.view_signingservice'
    UNION ALL SELECT 'core.signingservice_user', 'core.use_signingservice'
    UNION ALL SELECT 'core.signingservice_owner', 'core.view_signingservice'
    UNION ALL SELECT 'core.signingservice_owner', 'core.use_signingservice'
    UNION ALL SELECT 'core.signingservice_owner', 'core.change_signingservice'
    UNION ALL SELECT 'core.signingservice_owner', 'core.manage_roles_signingservice'
) v ON v.name = r.name;

-- Where their namespace does not exist, they keep the repositories and remotes of their name.
INSERT INTO role_assignment (id, role_id, account_id, object, created, updated)
SELECT lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-a' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))), '0199d5a0-0000-7000-8000-000000000003', a.id, 'repository:' || o.id, t.now, t.now
  FROM repository o JOIN account a ON a.username = SUBSTR(o.name, 1, INSTR(o.name || '/', '/') - 1)
 CROSS JOIN (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS BIGINT) AS now) t
 WHERE NOT a.is_staff AND NOT EXISTS (SELECT 1 FROM namespace n WHERE n.name = a.username);
INSERT INTO role_assignment (id, role_id, account_id, object, created, updated)
SELECT lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-a' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))), '0199d5a0-0000-7000-8000-000000000007', a.id, 'remote:' || o.id, t.now, t.now
  FROM remote o JOIN account a ON a.username = SUBSTR(o.name, 1, INSTR(o.name || '/', '/') - 1)
 CROSS JOIN (SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS BIGINT) AS now) t
 WHERE NOT a.is_staff AND NOT EXISTS (SELECT 1 FROM namespace n WHERE n.name = a.username);
