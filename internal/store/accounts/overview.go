package accounts

import (
	"context"
	"fmt"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Users returns all accounts, sorted by name.
func (s *Store) Users(ctx context.Context) ([]pulp.User, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanUser, `SELECT `+record.AccountColumns+` FROM account ORDER BY username`)
}

// Groups returns all groups, sorted by name.
func (s *Store) Groups(ctx context.Context) ([]pulp.Group, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanGroup, `SELECT `+record.GroupColumns+` FROM account_group ORDER BY name`)
}

// Roles returns all roles without their permissions, sorted by name.
func (s *Store) Roles(ctx context.Context) ([]pulp.Role, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanRole, `SELECT `+record.RoleColumns+` FROM role ORDER BY name`)
}

// Membership is the membership of an account in a group.
type Membership struct {
	AccountID int64
	Account   string // name of the account
	GroupID   int64
	Group     string // name of the group
	Source    string // the source that maintains the membership; empty: it was added by hand
}

// Memberships returns all memberships, sorted by the names of group and account.
func (s *Store) Memberships(ctx context.Context) ([]Membership, error) {
	scan := func(r sqldb.Scanner) (m Membership, err error) {
		err = r.Scan(&m.AccountID, &m.Account, &m.GroupID, &m.Group, &m.Source)
		return m, err
	}
	return sqldb.Collect(ctx, s.db.Read(), scan, `
		SELECT a.id, a.username, g.id, g.name, m.source FROM account_group_member m
		  JOIN account a ON a.id = m.account_id JOIN account_group g ON g.id = m.group_id
		 ORDER BY g.name, a.username, m.source`)
}

// named are the columns with the names by which operators call objects: those of distributions are their base paths.
var named = map[access.Kind]string{
	access.Namespace: "name", access.Repository: "name", access.Distribution: "base_path", access.Remote: "name",
	access.SigningService: "name", access.PullThrough: "base_path", access.PullThroughRemote: "name", access.Webhook: "name",
}

// ObjectNamed returns the access.Key of the object of a kind with a name. The name of a distribution is its base path.
// The error is NotFound if there is none.
func (s *Store) ObjectNamed(ctx context.Context, kind access.Kind, name string) (string, error) {
	column, ok := named[kind]
	if !ok {
		return "", fmt.Errorf("objects of the kind %q have no names", kind)
	}
	var id string
	err := s.db.Read().QueryRowContext(ctx, `SELECT id FROM `+tables[kind]+` WHERE `+column+` = $1`, name).Scan(&id)
	return access.Key(kind, id), sqldb.NotFound(err, "The object does not exist.")
}

// NamedAssignment is an assignment of a role with the name of its object.
type NamedAssignment struct {
	Role    string
	Account string // empty if the role is a group's
	Group   string // empty if the role is an account's
	Kind    access.Kind
	Object  string // name of the object, or the id of a task; Kind and Object are empty for all objects
}

// AssignmentFilter selects assignments of roles. Its zero value selects all.
type AssignmentFilter struct {
	Assignee Assignee // zero: of everybody
	Object   string   // an access.Key; empty: on all objects
}

// NamedAssignments returns assignments, sorted by the names of role, account and group.
func (s *Store) NamedAssignments(ctx context.Context, f AssignmentFilter) ([]NamedAssignment, error) {
	scan := func(r sqldb.Scanner) (a NamedAssignment, err error) {
		err = r.Scan(&a.Role, &a.Account, &a.Group, &a.Kind, &a.Object)
		return a, err
	}
	return sqldb.Collect(ctx, s.db.Read(), scan, `
		SELECT x.role, x.username, x.grp, x.kind,
		       COALESCE(CASE x.kind
		         WHEN 'namespace' THEN (SELECT o.name FROM namespace o WHERE o.id = x.id)
		         WHEN 'repository' THEN (SELECT o.name FROM repository o WHERE o.id = x.id)
		         WHEN 'distribution' THEN (SELECT o.base_path FROM distribution o WHERE o.id = x.id)
		         WHEN 'remote' THEN (SELECT o.name FROM remote o WHERE o.id = x.id)
		         WHEN 'pull_through_distribution' THEN (SELECT o.base_path FROM pull_through_distribution o WHERE o.id = x.id)
		         WHEN 'pull_through_remote' THEN (SELECT o.name FROM pull_through_remote o WHERE o.id = x.id)
		         WHEN 'signing_service' THEN (SELECT o.name FROM signing_service o WHERE o.id = x.id)
		         WHEN 'webhook' THEN (SELECT o.name FROM webhook o WHERE o.id = x.id)
		         WHEN 'group' THEN (SELECT o.name FROM account_group o WHERE CAST(o.id AS TEXT) = x.id)
		         END, x.id)
		  FROM (SELECT r.name AS role, COALESCE(u.username, '') AS username, COALESCE(g.name, '') AS grp,
		               SUBSTR(a.object, 1, CASE WHEN a.object = '' THEN 0 ELSE INSTR(a.object, ':') - 1 END) AS kind,
		               SUBSTR(a.object, INSTR(a.object, ':') + 1) AS id
		          FROM role_assignment a JOIN role r ON r.id = a.role_id
		          LEFT JOIN account u ON u.id = a.account_id LEFT JOIN account_group g ON g.id = a.group_id
		         WHERE ($1 = 0 OR a.account_id = $1) AND ($2 = 0 OR a.group_id = $2) AND ($3 = '' OR a.object = $3)) x
		 ORDER BY x.role, x.username, x.grp, x.kind, x.id`,
		f.Assignee.Account, f.Assignee.Group, f.Object)
}
