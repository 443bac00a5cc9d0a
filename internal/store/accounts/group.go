package accounts

import (
	"context"
	"database/sql"
	"errors"
	"strconv"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// noGroup is the error for a group that does not exist.
const noGroup = "No Group matches the given query."

// GroupByName returns the group with a name, which is case-sensitive. The error is NotFound if there is none.
func (s *Store) GroupByName(ctx context.Context, name string) (pulp.Group, error) {
	g, err := record.ScanGroup(
		s.db.Read().QueryRowContext(ctx, `SELECT `+record.GroupColumns+` FROM account_group WHERE name = $1`, name),
	)
	return g, sqldb.NotFound(err, noGroup)
}

// CreateGroup creates a group. The account creator, if it is not 0, becomes its owner. The error has the field "name"
// if the name is taken.
func (s *Store) CreateGroup(ctx context.Context, name string, creator int64) (pulp.Group, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (pulp.Group, error) {
		g, err := record.ScanGroup(t.Row(`INSERT INTO account_group (name, created, updated) VALUES ($1, $2, $2)
			ON CONFLICT (name) DO NOTHING RETURNING `+record.GroupColumns, name, t.Now))
		if errors.Is(err, sql.ErrNoRows) {
			return g, fault.Field("name", notUnique)
		}
		if err != nil {
			return g, err
		}
		s.Changed(t)
		return g, Assign(t, creator, access.GroupOwner, access.Key(access.Group, strconv.FormatInt(g.ID, 10)))
	})
}

// RenameGroup gives the group with an id another name. The error has the field "name" if it is taken, and is NotFound
// if there is no such group.
func (s *Store) RenameGroup(ctx context.Context, id int64, name string) (pulp.Group, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (pulp.Group, error) {
		g, err := record.ScanGroup(
			t.Row(`UPDATE account_group SET name = $2, updated = $3 WHERE id = $1 RETURNING `+record.GroupColumns,
				id, name, t.Now),
		)
		if sqldb.IsUnique(err) {
			return g, fault.Field("name", notUnique)
		}
		s.Changed(t)
		return g, sqldb.NotFound(err, noGroup)
	})
}

// DeleteGroup deletes a group with its memberships and assignments. The error is NotFound if there is no such group.
func (s *Store) DeleteGroup(ctx context.Context, id int64) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		n, err := t.Exec(`DELETE FROM account_group WHERE id = $1`, id)
		if err == nil && n == 0 {
			err = fault.New(fault.NotFound, noGroup)
		}
		s.Changed(t)
		return err
	})
}

// AddMember adds an account to a group. A member stays. The error is NotFound if the group or the account does not
// exist.
func (s *Store) AddMember(ctx context.Context, group, account int64) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		if err := lockMember(t, group, account); err != nil {
			return err
		}
		s.Changed(t)
		_, err := t.Exec(
			`INSERT INTO account_group_member (group_id, account_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`,
			group,
			account,
		)
		return err
	})
}

// lockMember returns an error unless a group and an account exist. Both exist until the transaction ends.
func lockMember(t *sqldb.Tx, group, account int64) error {
	var one int
	if err := t.Row(`SELECT 1 FROM account WHERE id = $1`+t.Dialect.ForShare, account).Scan(&one); err != nil {
		return sqldb.NotFound(err, noUser)
	}
	err := t.Row(`SELECT 1 FROM account_group WHERE id = $1`+t.Dialect.ForShare, group).Scan(&one)
	return sqldb.NotFound(err, noGroup)
}

// RemoveMember removes the membership of an account in a group that was added by hand. The error is NotFound if the
// account is no member, and Conflict if it remains one because a source such as LDAP maintains a membership too.
func (s *Store) RemoveMember(ctx context.Context, group, account int64) error {
	source, err := sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (source string, err error) {
		removed, err := t.Exec(
			`DELETE FROM account_group_member WHERE group_id = $1 AND account_id = $2 AND source = ''`, group, account)
		if err != nil {
			return "", err
		}
		s.Changed(t)
		err = t.Row(`SELECT source FROM account_group_member WHERE group_id = $1 AND account_id = $2 LIMIT 1`, group, account).
			Scan(&source)
		if errors.Is(err, sql.ErrNoRows) {
			err = nil
			if removed == 0 {
				err = fault.New(fault.NotFound, noUser)
			}
		}
		return source, err
	})
	if err == nil && source != "" {
		err = fault.New(fault.Conflict, "The source %q maintains this membership; remove the user from the group there.", source)
	}
	return err
}

// SetMemberships makes an account a member of exactly the groups with these names as far as a source is concerned, in
// the transaction of the caller. Memberships of other sources and manual ones stay. Names without a group have no
// effect. changed reports whether a membership was added or removed; then the caller announces the change with Changed.
func SetMemberships(t *sqldb.Tx, account int64, source string, groups []string) (changed bool, err error) {
	names := sqldb.ToJSON(append([]string{}, groups...))
	removed, err := t.Exec(`
		DELETE FROM account_group_member WHERE account_id = $1 AND source = $2 AND group_id NOT IN (
			SELECT g.id FROM account_group g WHERE g.name IN (SELECT j.value FROM json_each($3) j))`, account, source, names)
	if err != nil {
		return false, err
	}
	added, err := t.Exec(`
		INSERT INTO account_group_member (group_id, account_id, source)
		SELECT g.id, a.id, $2 FROM account_group g, account a
		 WHERE a.id = $1 AND g.name IN (SELECT j.value FROM json_each($3) j) ON CONFLICT DO NOTHING`, account, source, names)
	return removed > 0 || added > 0, err
}
