package accounts

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Assignee is an account or a group.
type Assignee struct {
	Account, Group int64  // one of them is 0
	Name           string // for messages
}

// String returns the assignee in the form of Pulp's messages.
func (a Assignee) String() string {
	if a.Group != 0 {
		return fmt.Sprintf("group '%s'", a.Name)
	}
	return fmt.Sprintf("user '%s'", a.Name)
}

// column returns the column of role_assignment that names the assignee, and its value.
func (a Assignee) column() (string, int64) {
	if a.Group != 0 {
		return "group_id", a.Group
	}
	return "account_id", a.Account
}

// AssignRole gives accounts and groups a role on an object, all of them or none, and returns the ids of the assignments
// in the order of the assignees. object is an access.Key, or empty for all objects. The error is Invalid if one of them
// has the role there already or is the identity of a rule, or if the role has no permission for the object's type, and
// NotFound if the role, the object or an assignee does not exist.
func (s *Store) AssignRole(ctx context.Context, role, object string, to ...Assignee) ([]string, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) ([]string, error) {
		if err := checkRole(t, role, object); err != nil {
			return nil, err
		}
		ids := make([]string, len(to))
		for i, a := range to {
			ids[i] = pulp.NewID()
			n, err := t.Exec(`
				INSERT INTO role_assignment (id, role_id, account_id, group_id, object, created, updated)
				SELECT $1, r.id, u.id, g.id, $5, $6, $6
				  FROM role r LEFT JOIN account u ON u.id = $3 LEFT JOIN account_group g ON g.id = $4
				 WHERE r.name = $2 AND (u.id IS NULL) <> (g.id IS NULL) AND COALESCE(u.kind, '') <> 'oidc'
				ON CONFLICT DO NOTHING`, ids[i], role, a.Account, a.Group, object, t.Now)
			if err != nil {
				return nil, err
			}
			if n == 0 {
				return nil, notAssigned(t, role, object, a)
			}
		}
		s.Changed(t)
		return ids, nil
	})
}

// notAssigned returns the reason why a role could not be assigned.
func notAssigned(t *sqldb.Tx, role, object string, a Assignee) error {
	column, id := a.column()
	var one int
	err := t.Row(`SELECT 1 FROM role_assignment a JOIN role r ON r.id = a.role_id
		WHERE r.name = $1 AND a.object = $2 AND a.`+column+` = $3`, role, object, id).Scan(&one)
	switch {
	case err == nil:
		return fault.New(fault.Invalid, "The role is already assigned to %s.", a)
	case !errors.Is(err, sql.ErrNoRows):
		return err
	case a.Group != 0:
		return fault.New(fault.NotFound, noGroup)
	}
	var kind pulp.AccountKind
	err = t.Row(`SELECT kind FROM account WHERE id = $1`, id).Scan(&kind)
	if err == nil && kind == pulp.RuleIdentity {
		return fault.New(fault.Invalid, "The rights of %s are those of its rule in the configuration; change oidc.rules instead.", a)
	}
	if err == nil { // it was created in the meantime
		err = sql.ErrNoRows
	}
	return sqldb.NotFound(err, noUser)
}

// checkRole returns an error unless a role exists and can be assigned on an object. Both exist until the transaction
// ends.
func checkRole(t *sqldb.Tx, role, object string) error {
	var id string
	if err := t.Row(`SELECT id FROM role WHERE name = $1`+t.Dialect.ForShare, role).Scan(&id); err != nil {
		return sqldb.NotFound(err, noRole)
	}
	if object == "" {
		return nil
	}
	kind, push, err := lockObject(t, object)
	if err != nil {
		return err
	}
	names, err := permissions(t.Ctx, t, id)
	if err != nil {
		return err
	}
	var has access.Set
	for _, name := range names {
		has = has.Or(access.SetOf(access.Permission(name)))
	}
	if !has.HasAny(access.Applicable(kind, push)) {
		return fault.New(fault.Invalid, "The role '%s' does not carry any permission for that object.", role)
	}
	return nil
}

// tables are the tables of the kinds of objects on which roles can be assigned.
var tables = map[access.Kind]string{
	access.Repository: "repository", access.Distribution: "distribution", access.Remote: "remote",
	access.Namespace: "namespace", access.Task: "task", access.Group: "account_group", access.SigningService: "signing_service",
	access.PullThrough: "pull_through_distribution", access.PullThroughRemote: "pull_through_remote",
	access.Webhook: "webhook",
}

// lockObject returns the kind of the object with an access.Key, and whether it is a push repository. The object exists
// until the transaction ends.
func lockObject(t *sqldb.Tx, object string) (kind access.Kind, push bool, err error) {
	name, id, _ := strings.Cut(object, ":")
	kind = access.Kind(name)
	table, ok := tables[kind]
	if !ok {
		return kind, false, fmt.Errorf("roles cannot be assigned on objects of the kind %q", name)
	}
	detail, key := "''", any(id)
	if kind == access.Repository {
		detail = "type"
	} else if kind == access.Group {
		if key, err = strconv.ParseInt(id, 10, 64); err != nil {
			return kind, false, fmt.Errorf("the id of a group: %w", err)
		}
	}
	var found string
	err = t.Row(`SELECT `+detail+` FROM `+table+` WHERE id = $1`+t.Dialect.ForShare, key).Scan(&found)
	return kind, found == string(pulp.ContainerPush), sqldb.NotFound(err, "The object does not exist.")
}

// RevokeRole takes a role on an object from accounts and groups, from all of them or none. The error is Invalid if one
// of them does not have the role there.
func (s *Store) RevokeRole(ctx context.Context, role, object string, from ...Assignee) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		for _, a := range from {
			column, id := a.column()
			n, err := t.Exec(`DELETE FROM role_assignment WHERE object = $2 AND `+column+` = $3
				AND role_id = (SELECT r.id FROM role r WHERE r.name = $1)`, role, object, id)
			if err == nil && n == 0 {
				err = fault.New(fault.Invalid, "The role is not assigned to %s.", a)
			}
			if err != nil {
				return err
			}
		}
		s.Changed(t)
		return nil
	})
}

// DeleteAssignment deletes the assignment with an id. The error is NotFound if there is none.
func (s *Store) DeleteAssignment(ctx context.Context, id string) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		n, err := t.Exec(`DELETE FROM role_assignment WHERE id = $1`, id)
		if err == nil && n == 0 {
			err = fault.New(fault.NotFound, "No assignment of a role matches the given query.")
		}
		s.Changed(t)
		return err
	})
}

// Assignments returns the roles that are assigned on an object, an access.Key or empty for all objects, the oldest
// first.
func (s *Store) Assignments(ctx context.Context, object string) ([]pulp.Assignment, error) {
	return sqldb.Collect(
		ctx,
		s.db.Read(),
		record.ScanAssignment,
		`SELECT `+record.AssignmentColumns+record.AssignmentSource+` WHERE a.object = $1 ORDER BY a.created, a.id`,
		object,
	)
}

// AssignmentsOf returns the roles that are assigned to an account or a group itself, the oldest first.
func (s *Store) AssignmentsOf(ctx context.Context, of Assignee) ([]pulp.Assignment, error) {
	column, id := of.column()
	return sqldb.Collect(
		ctx,
		s.db.Read(),
		record.ScanAssignment,
		`SELECT `+record.AssignmentColumns+record.AssignmentSource+` WHERE a.`+column+` = $1 ORDER BY a.created, a.id`,
		id,
	)
}
