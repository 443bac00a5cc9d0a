package record

import (
	"database/sql"
	"time"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// AccountColumns are the columns that ScanUser reads.
const AccountColumns = `id, username, password_hash, is_staff, is_active, kind, source, external_id, COALESCE(checked, 0),
	COALESCE(namespace_id, ''), first_name, last_name, email, description, created, updated`

// ScanUser reads a user. An external user whom the source does not confirm is not active.
func ScanUser(row sqldb.Scanner) (pulp.User, error) {
	var u pulp.User
	var checked, created, updated int64
	err := row.Scan(&u.ID, &u.Username, &u.Hash, &u.Staff, &u.Active, &u.Kind, &u.Source, &u.ExternalID, &checked,
		&u.NamespaceID, &u.FirstName, &u.LastName, &u.Email, &u.Description, &created, &updated)
	if err != nil {
		return pulp.User{}, err
	}
	if checked != 0 {
		u.Checked = time.UnixMicro(checked)
	}
	u.Staff = u.Staff && u.Kind != pulp.RuleIdentity // CI jobs are never administrators
	u.Active = u.Active && (u.Kind != pulp.ExternalUser || checked != 0)
	u.Stamps = Stamps(created, updated)
	return u, nil
}

// GroupColumns are the columns of a group that ScanGroup reads.
const GroupColumns = `id, name, created, updated`

// ScanGroup reads a group.
func ScanGroup(row sqldb.Scanner) (pulp.Group, error) {
	var g pulp.Group
	var created, updated int64
	if err := row.Scan(&g.ID, &g.Name, &created, &updated); err != nil {
		return pulp.Group{}, err
	}
	g.Stamps = Stamps(created, updated)
	return g, nil
}

// RoleColumns are the columns of a role that ScanRole reads.
const RoleColumns = `id, name, description, locked, created, updated`

// ScanRole reads a role without its permissions.
func ScanRole(row sqldb.Scanner) (pulp.Role, error) {
	var r pulp.Role
	var description sql.NullString
	var created, updated int64
	if err := row.Scan(&r.ID, &r.Name, &description, &r.Locked, &created, &updated); err != nil {
		return pulp.Role{}, err
	}
	r.Description, r.Stamps = sqldb.Pointer(description), Stamps(created, updated)
	return r, nil
}

// The columns of an assignment that ScanAssignment reads, and the tables that they are from.
const (
	AssignmentColumns = `a.id, a.role_id, r.name, r.description, COALESCE(a.account_id, 0), COALESCE(u.username, ''), COALESCE(a.group_id, 0),
	COALESCE(g.name, ''), a.object,
	COALESCE((SELECT p.type FROM repository p WHERE a.object = 'repository:' || p.id AND p.id = SUBSTR(a.object, 12)), ''),
	a.created, a.updated`
	AssignmentSource = ` FROM role_assignment a JOIN role r ON r.id = a.role_id
	LEFT JOIN account u ON u.id = a.account_id LEFT JOIN account_group g ON g.id = a.group_id`
)

// ScanAssignment reads an assignment.
func ScanAssignment(row sqldb.Scanner) (pulp.Assignment, error) {
	var a pulp.Assignment
	var about sql.NullString
	var created, updated int64
	err := row.Scan(&a.ID, &a.RoleID, &a.Role, &about, &a.AccountID, &a.Account, &a.GroupID, &a.Group, &a.Object, &a.Repository,
		&created, &updated)
	if err != nil {
		return pulp.Assignment{}, err
	}
	a.About, a.Stamps = sqldb.Pointer(about), Stamps(created, updated)
	return a, nil
}
