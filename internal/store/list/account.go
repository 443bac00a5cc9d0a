package list

import (
	"context"
	"strconv"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// UserList is the list of accounts of all kinds. The hash of the password is no field: clients cannot filter or sort by
// it.
var UserList = &List[pulp.User]{
	columns: record.AccountColumns, source: ` FROM account u`, id: "CAST(u.id AS TEXT)", scan: record.ScanUser,
	fields: map[string]string{
		"pulp_id": "CAST(u.id AS TEXT)", "pk": "u.id", "id": "u.id",
		"pulp_created": "u.created", "pulp_last_updated": "u.updated",
		"username": "u.username", "name": "u.username", "first_name": "u.first_name", "last_name": "u.last_name", "email": "u.email",
		"is_staff": "u.is_staff", "is_active": "u.is_active", "date_joined": "u.created",
		"kind": "u.kind", "source": "u.source",
	},
}

// Users lists accounts of all kinds.
func (s *Store) Users(ctx context.Context, q Query) ([]pulp.User, int64, error) {
	return UserList.Rows(ctx, s, q)
}

// InGroup restricts a list of users to the members of a group.
func InGroup(group int64) Filter {
	return clause(func(b *statement) string {
		return b.field("id") +
			" IN (SELECT m.account_id FROM account_group_member m WHERE m.group_id = " + b.arg(group) + ")"
	})
}

// GroupList is the list of groups.
var GroupList = &List[pulp.Group]{
	columns: record.GroupColumns, source: ` FROM account_group g`, id: "CAST(g.id AS TEXT)", scan: record.ScanGroup,
	fields: map[string]string{
		"pulp_id": "CAST(g.id AS TEXT)", "pk": "g.id", "id": "g.id",
		"pulp_created": "g.created", "pulp_last_updated": "g.updated",
		"name": "g.name",
	},
	visible: permitted(access.Group, "g.id"),
}

// Groups lists groups.
func (s *Store) Groups(ctx context.Context, q Query) ([]pulp.Group, int64, error) {
	return GroupList.Rows(ctx, s, q)
}

// GroupsOf returns the groups of some accounts, sorted by name, by the accounts' ids.
func (s *Store) GroupsOf(ctx context.Context, accounts []int64) (map[int64][]pulp.Group, error) {
	type membership struct {
		account int64
		group   pulp.Group
	}
	ids := make([]string, len(accounts))
	for i, id := range accounts {
		ids[i] = strconv.FormatInt(id, 10)
	}
	rows, err := sqldb.Collect(ctx, s.db.Read(), func(row sqldb.Scanner) (v membership, err error) {
		v.group, err = record.ScanGroup(sqldb.WithMore(row, &v.account))
		return v, err
	}, `SELECT DISTINCT g.id, g.name, g.created, g.updated, m.account_id
		FROM json_each($1) j JOIN account_group_member m ON m.account_id = CAST(j.value AS BIGINT)
		JOIN account_group g ON g.id = m.group_id ORDER BY g.name`, sqldb.ToJSON(ids))
	groups := make(map[int64][]pulp.Group, len(accounts))
	for _, r := range rows {
		groups[r.account] = append(groups[r.account], r.group)
	}
	return groups, err
}

// RoleList is the list of roles without their permissions.
var RoleList = &List[pulp.Role]{
	long:    []string{"description"},
	large:   []large{{attributes: []string{"description"}, column: "description", instead: "NULL"}},
	columns: record.RoleColumns, source: ` FROM role r`, id: "r.id", scan: record.ScanRole,
	fields: with(
		"r",
		map[string]string{"name": "r.name", "description": "r.description", "locked": "r.locked", "role_id": "r.id"},
	),
}

// Roles lists roles without their permissions.
func (s *Store) Roles(ctx context.Context, q Query) ([]pulp.Role, int64, error) {
	return RoleList.Rows(ctx, s, q)
}

// PermissionsOf returns the permissions of some roles, sorted, by the roles' ids.
func (s *Store) PermissionsOf(ctx context.Context, roles []string) (map[string][]string, error) {
	type row struct{ role, permission string }
	rows, err := sqldb.Collect(ctx, s.db.Read(), func(r sqldb.Scanner) (v row, err error) {
		err = r.Scan(&v.role, &v.permission)
		return v, err
	}, `SELECT p.role_id, p.permission FROM role_permission p WHERE p.role_id IN (SELECT j.value FROM json_each($1) j)
		ORDER BY p.permission`, sqldb.ToJSON(append([]string{}, roles...)))
	permissions := make(map[string][]string, len(roles))
	for _, r := range rows {
		permissions[r.role] = append(permissions[r.role], r.permission)
	}
	return permissions, err
}

// WithPermission restricts a list of roles, or of assignments of roles, to roles with a permission.
func WithPermission(p access.Permission) Filter {
	return clause(func(b *statement) string {
		return b.field("role_id") +
			" IN (SELECT p.role_id FROM role_permission p WHERE p.permission = " + b.arg(string(p)) + ")"
	})
}

// OnlyPermissions restricts a list of roles to those that have a permission and no other ones than these.
func OnlyPermissions(all []access.Permission) Filter {
	return clause(func(b *statement) string {
		names := make([]string, len(all))
		for i, p := range all {
			names[i] = string(p)
		}
		role := b.field("role_id")
		return "(" + role + " IN (SELECT p.role_id FROM role_permission p) AND " + role +
			" NOT IN (SELECT p.role_id FROM role_permission p WHERE p.permission NOT IN " + b.set(names) + "))"
	})
}

// AssignmentList is the list of the assignments of all roles.
var AssignmentList = &List[pulp.Assignment]{
	columns: record.AssignmentColumns, source: record.AssignmentSource, id: "a.id", scan: record.ScanAssignment,
	fields: with("a", map[string]string{
		"role": "r.name", "role_id": "a.role_id", "account": "a.account_id", "group": "a.group_id", "object": "a.object",
		"role__description": "r.description",
	}),
}

// RoleAssignments lists the assignments of all roles.
func (s *Store) RoleAssignments(ctx context.Context, q Query) ([]pulp.Assignment, int64, error) {
	return AssignmentList.Rows(ctx, s, q)
}
