package accounts

import (
	"context"
	"slices"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// noRole is the error for a role that does not exist.
const noRole = "No Role matches the given query."

// errLocked is the error of a change of a locked role.
var errLocked = fault.New(fault.Invalid, "Locked roles cannot be changed.")

// RoleByName returns the role with a name, with its permissions. The error is NotFound if there is none.
func (s *Store) RoleByName(ctx context.Context, name string) (pulp.Role, error) {
	r, err := record.ScanRole(
		s.db.Read().QueryRowContext(ctx, `SELECT `+record.RoleColumns+` FROM role WHERE name = $1`, name),
	)
	if err != nil {
		return r, sqldb.NotFound(err, noRole)
	}
	r.Permissions, err = permissions(ctx, s.db.Read(), r.ID)
	return r, err
}

func permissions(ctx context.Context, q sqldb.Querier, role string) ([]string, error) {
	return sqldb.Collect(
		ctx,
		q,
		sqldb.ScanString,
		`SELECT permission FROM role_permission WHERE role_id = $1 ORDER BY permission`,
		role,
	)
}

// CreateRole stores a new role that is not locked. Its permissions must be known (access.Known). The error has the
// field "name" if the name is taken.
func (s *Store) CreateRole(ctx context.Context, r pulp.Role) (pulp.Role, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (pulp.Role, error) {
		created := r
		created.ID, created.Locked, created.Stamps = pulp.NewID(), false, record.Stamps(t.Now, t.Now)
		n, err := t.Exec(`INSERT INTO role (id, name, description, created, updated) VALUES ($1, $2, $3, $4, $4)
			ON CONFLICT (name) DO NOTHING`, created.ID, created.Name, sqldb.NullText(created.Description), t.Now)
		if err == nil && n == 0 {
			err = fault.Field("name", notUnique)
		}
		if err != nil {
			return pulp.Role{}, err
		}
		s.Changed(t)
		return writePermissions(t, created)
	})
}

// writePermissions replaces the permissions of a role and returns it with them sorted.
func writePermissions(t *sqldb.Tx, r pulp.Role) (pulp.Role, error) {
	r.Permissions = slices.Compact(slices.Sorted(slices.Values(r.Permissions)))
	if _, err := t.Exec(`DELETE FROM role_permission WHERE role_id = $1`, r.ID); err != nil {
		return pulp.Role{}, err
	}
	_, err := t.Exec(
		`INSERT INTO role_permission (role_id, permission) SELECT r.id, j.value FROM role r, json_each($2) j WHERE r.id = $1`,
		r.ID,
		sqldb.ToJSON(append([]string{}, r.Permissions...)),
	)
	return r, err
}

// EditRole changes name, description and permissions of the role with an id. edit may run again. The error has the
// field "name" if the name is taken, is Invalid for a locked role, and NotFound if there is no such role.
func (s *Store) EditRole(ctx context.Context, id string, edit func(*pulp.Role)) (pulp.Role, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (pulp.Role, error) {
		r, err := lockRole(t, id)
		if err != nil {
			return pulp.Role{}, err
		}
		if r.Permissions, err = permissions(t.Ctx, t, id); err != nil {
			return pulp.Role{}, err
		}
		edit(&r)
		r.Updated = sqldb.FromMicros(t.Now)
		_, err = t.Exec(`UPDATE role SET name = $2, description = $3, updated = $4 WHERE id = $1`,
			id, r.Name, sqldb.NullText(r.Description), t.Now)
		if sqldb.IsUnique(err) {
			err = fault.Field("name", notUnique)
		}
		if err != nil {
			return pulp.Role{}, err
		}
		s.Changed(t)
		return writePermissions(t, r)
	})
}

// lockRole returns a role that is not locked by the program. No other transaction changes it until this one ends.
func lockRole(t *sqldb.Tx, id string) (pulp.Role, error) {
	r, err := record.ScanRole(t.Row(`SELECT `+record.RoleColumns+` FROM role WHERE id = $1`+t.Dialect.ForUpdate, id))
	if err == nil && r.Locked {
		err = errLocked
	}
	return r, sqldb.NotFound(err, noRole)
}

// DeleteRole deletes a role with its assignments. The error is Invalid for a locked role, and NotFound if there is no
// such role.
func (s *Store) DeleteRole(ctx context.Context, id string) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		if _, err := lockRole(t, id); err != nil {
			return err
		}
		s.Changed(t)
		_, err := t.Exec(`DELETE FROM role WHERE id = $1`, id)
		return err
	})
}
