package accounts

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// noUser is the error for a user that does not exist.
const noUser = "No User matches the given query."

// UserByName returns the user with a name, which is case-sensitive. The error is NotFound if there is none.
func (s *Store) UserByName(ctx context.Context, username string) (pulp.User, error) {
	u, err := record.ScanUser(
		s.db.Read().QueryRowContext(ctx, `SELECT `+record.AccountColumns+` FROM account WHERE username = $1`, username),
	)
	return u, sqldb.NotFound(err, noUser)
}

// User returns the user with an id. The error is NotFound if there is none.
func (s *Store) User(ctx context.Context, id int64) (pulp.User, error) {
	u, err := record.ScanUser(
		s.db.Read().QueryRowContext(ctx, `SELECT `+record.AccountColumns+` FROM account WHERE id = $1`, id),
	)
	return u, sqldb.NotFound(err, noUser)
}

// PutUser creates a local user, or replaces password hash, staff and active of the local user with that name. An
// account of another kind with the name is deleted first, with its roles and API tokens: they are somebody else's.
// PutUser does not keep the last local administrator.
func (s *Store) PutUser(ctx context.Context, username, hash string, staff, active bool) (pulp.User, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (pulp.User, error) {
		s.Changed(t)
		return putUser(t, username, hash, staff, active)
	})
}

func putUser(t *sqldb.Tx, username, hash string, staff, active bool) (pulp.User, error) {
	if _, err := t.Exec(`DELETE FROM account WHERE username = $1 AND kind <> $2`, username, pulp.LocalUser); err != nil {
		return pulp.User{}, err
	}
	return record.ScanUser(t.Row(`
		INSERT INTO account (id, username, password_hash, is_staff, is_active, created, updated)
		VALUES (`+t.Dialect.NextAccount+`, $1, $2, $3, $4, $5, $5)
		ON CONFLICT (username) DO UPDATE
		   SET password_hash = excluded.password_hash, is_staff = excluded.is_staff, is_active = excluded.is_active,
		       updated = excluded.updated
		RETURNING `+record.AccountColumns, username, hash, staff, active, t.Now))
}

// ResetAdministrator is PutUser for an active administrator. It also deletes the API tokens of the account, because
// somebody else may have them, and returns their number.
func (s *Store) ResetAdministrator(ctx context.Context, username, hash string) (tokens int64, err error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (int64, error) {
		s.Changed(t)
		u, err := putUser(t, username, hash, true, true)
		if err != nil {
			return 0, err
		}
		return t.Exec(`DELETE FROM api_token WHERE account_id = $1`, u.ID)
	})
}

// CreateUser stores a new account of any kind; an empty kind is LocalUser. It sets id and timestamps. The error has the
// field "username" if the name is taken.
func (s *Store) CreateUser(ctx context.Context, u pulp.User) (pulp.User, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (pulp.User, error) {
		s.Changed(t)
		return CreateUser(t, u)
	})
}

// CreateUser is the method CreateUser in the transaction of the caller, who announces the change with Changed.
func CreateUser(t *sqldb.Tx, u pulp.User) (pulp.User, error) {
	if u.Kind == "" {
		u.Kind = pulp.LocalUser
	}
	created, err := record.ScanUser(t.Row(
		`
		INSERT INTO account (id, username, password_hash, is_staff, is_active, kind, source, external_id, checked, namespace_id,
		                     first_name, last_name, email, description, created, updated)
		VALUES (`+t.Dialect.NextAccount+`, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14)
		ON CONFLICT (username) DO NOTHING RETURNING `+record.AccountColumns,
		u.Username,
		u.Hash,
		u.Staff,
		u.Active,
		u.Kind,
		u.Source,
		u.ExternalID,
		checked(u),
		sqldb.NullIfEmpty(u.NamespaceID),
		u.FirstName,
		u.LastName,
		u.Email,
		sqldb.NullText(u.Description),
		t.Now,
	))
	if errors.Is(err, sql.ErrNoRows) {
		return pulp.User{}, fault.Field("username", notUnique)
	}
	return created, err
}

const notUnique = "This field must be unique."

func checked(u pulp.User) sql.NullInt64 {
	return sql.NullInt64{Int64: sqldb.Micros(u.Checked), Valid: !u.Checked.IsZero()}
}

// EditUser changes the account with an id and returns it. edit gets the current state and runs in the transaction; it
// may run again, and its error ends the edit. Id, kind and namespace do not change. The error has the field "username"
// if the name is taken, and is Conflict if the last local administrator would be lost.
func (s *Store) EditUser(ctx context.Context, id int64, edit func(*pulp.User) error) (pulp.User, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (pulp.User, error) {
		s.Changed(t)
		return EditUser(t, id, edit)
	})
}

// EditUser is the method EditUser in the transaction of the caller, who announces the change with Changed.
func EditUser(t *sqldb.Tx, id int64, edit func(*pulp.User) error) (pulp.User, error) {
	old, err := lockUser(t, id)
	if err != nil {
		return pulp.User{}, err
	}
	u := old
	if err := edit(&u); err != nil {
		return pulp.User{}, err
	}
	changed, err := record.ScanUser(t.Row(`
		UPDATE account SET username = $2, password_hash = $3, is_staff = $4, is_active = $5, source = $6, external_id = $7,
		       checked = $8, first_name = $9, last_name = $10, email = $11, description = $12, updated = $13
		 WHERE id = $1 RETURNING `+record.AccountColumns,
		id, u.Username, u.Hash, u.Staff, u.Active, u.Source, u.ExternalID, checked(u), u.FirstName, u.LastName, u.Email,
		sqldb.NullText(u.Description), t.Now))
	if sqldb.IsUnique(err) && u.Username != old.Username {
		return pulp.User{}, fault.Field("username", notUnique)
	}
	if err == nil && old.IsLocalAdministrator() && !changed.IsLocalAdministrator() {
		err = keepAdministrator(t)
	}
	return changed, err
}

// lockUser returns the account with an id, which no other transaction changes until this one ends. Active is the stored
// value, also for an external user whom the source does not confirm.
func lockUser(t *sqldb.Tx, id int64) (pulp.User, error) {
	u, err := record.ScanUser(
		t.Row(`SELECT `+record.AccountColumns+` FROM account WHERE id = $1`+t.Dialect.ForUpdate, id),
	)
	if err == nil && u.Kind == pulp.ExternalUser {
		err = t.Row(`SELECT is_active FROM account WHERE id = $1`, id).Scan(&u.Active)
	}
	return u, sqldb.NotFound(err, noUser)
}

// ErrLastAdministrator is the error of a change after which no active local user with a password would be an
// administrator.
var ErrLastAdministrator = fault.New(
	fault.Conflict,
	"This is the last active administrator with a password. Create another one before you disable, delete or demote it.",
)

// keepAdministrator returns an error unless the transaction leaves a local administrator. It waits for transactions
// that called it before, so that two of them cannot each remove one of the last two.
func keepAdministrator(t *sqldb.Tx) error {
	if err := t.LockNamed("countersign:administrators"); err != nil {
		return err
	}
	var left bool
	err := t.Row(`SELECT EXISTS (SELECT 1 FROM account WHERE kind = $1 AND is_staff AND is_active AND password_hash <> '')`,
		pulp.LocalUser).
		Scan(&left)
	if err == nil && !left {
		err = ErrLastAdministrator
	}
	return err
}

// DeleteUser deletes an account with its memberships, assignments and API tokens; its tasks lose their creator. permit,
// which may be nil, gets the account's current state in the transaction, and its error ends the deletion. The error is
// Conflict for the last local administrator, and NotFound if there is no such account.
func (s *Store) DeleteUser(ctx context.Context, id int64, permit func(pulp.User) error) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		u, err := lockUser(t, id)
		if err != nil {
			return err
		}
		if permit != nil {
			if err := permit(u); err != nil {
				return err
			}
		}
		if _, err := t.Exec(`DELETE FROM account WHERE id = $1`, id); err != nil {
			return err
		}
		s.Changed(t)
		if u.IsLocalAdministrator() {
			return keepAdministrator(t)
		}
		return nil
	})
}

// Named returns the ids of the accounts and groups with some names. Names without an account or group are not in the
// maps.
func (s *Store) Named(ctx context.Context, users, groups []string) (userIDs, groupIDs map[string]int64, err error) {
	if userIDs, err = s.named(ctx, `SELECT username, id FROM account WHERE username`, users); err != nil {
		return nil, nil, err
	}
	groupIDs, err = s.named(ctx, `SELECT name, id FROM account_group WHERE name`, groups)
	return userIDs, groupIDs, err
}

func (s *Store) named(ctx context.Context, query string, names []string) (map[string]int64, error) {
	type row struct {
		name string
		id   int64
	}
	scan := func(r sqldb.Scanner) (v row, err error) {
		err = r.Scan(&v.name, &v.id)
		return v, err
	}
	if !slices.ContainsFunc(names, func(name string) bool { return name != "" }) {
		return map[string]int64{}, nil
	}
	rows, err := sqldb.Collect(
		ctx,
		s.db.Read(),
		scan,
		query+` IN (SELECT j.value FROM json_each($1) j)`,
		sqldb.ToJSON(names),
	)
	ids := make(map[string]int64, len(rows))
	for _, r := range rows {
		ids[r.name] = r.id
	}
	return ids, err
}
