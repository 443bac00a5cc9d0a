package accounts

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// UserByName returns the user with a name, which is case-sensitive. The error is NotFound if there is none.
func (s *Store) UserByName(ctx context.Context, username string) (pulp.User, error) {
	u, err := record.ScanUser(s.db.Read().QueryRowContext(ctx, `SELECT `+record.AccountColumns+` FROM account WHERE username = $1`, username))
	return u, sqldb.NotFound(err, "No User matches the given query.")
}

// User returns the user with an id. The error is NotFound if there is none.
func (s *Store) User(ctx context.Context, id int64) (pulp.User, error) {
	u, err := record.ScanUser(s.db.Read().QueryRowContext(ctx, `SELECT `+record.AccountColumns+` FROM account WHERE id = $1`, id))
	return u, sqldb.NotFound(err, "No User matches the given query.")
}

// PutUser creates a user, or replaces password hash, staff and active of the user with that name.
func (s *Store) PutUser(ctx context.Context, username, hash string, staff, active bool) (pulp.User, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (pulp.User, error) {
		s.Changed(t)
		return record.ScanUser(t.Row(`
			INSERT INTO account (username, password_hash, is_staff, is_active, created, updated) VALUES ($1, $2, $3, $4, $5, $5)
			ON CONFLICT (username) DO UPDATE
			   SET password_hash = excluded.password_hash, is_staff = excluded.is_staff, is_active = excluded.is_active, updated = excluded.updated
			RETURNING `+record.AccountColumns, username, hash, staff, active, t.Now))
	})
}
