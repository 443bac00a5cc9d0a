package store

import (
	"context"
	"database/sql"

	"github.com/countersign/countersign/internal/pulp"
)

const accountColumns = `id, username, password_hash, is_staff, is_active, created, updated`

func scanUser(row scanner) (pulp.User, error) {
	var u pulp.User
	var created, updated int64
	if err := row.Scan(&u.ID, &u.Username, &u.Hash, &u.Staff, &u.Active, &created, &updated); err != nil {
		return pulp.User{}, err
	}
	u.Stamps = stamps(created, updated)
	return u, nil
}

// UserByName returns the user with exactly this name. NotFound when there is none.
func (s *Store) UserByName(ctx context.Context, username string) (pulp.User, error) {
	u, err := scanUser(s.read.QueryRowContext(ctx, `SELECT `+accountColumns+` FROM account WHERE username = $1`, username))
	return u, notFound(err, "No User matches the given query.")
}

// User returns the user with this id. NotFound when there is none.
func (s *Store) User(ctx context.Context, id int64) (pulp.User, error) {
	u, err := scanUser(s.read.QueryRowContext(ctx, `SELECT `+accountColumns+` FROM account WHERE id = $1`, id))
	return u, notFound(err, "No User matches the given query.")
}

// PutUser makes a user, or gives an existing one of that name this password hash, standing and activity.
func (s *Store) PutUser(ctx context.Context, username, hash string, staff, active bool) (pulp.User, error) {
	var u pulp.User
	err := s.inTx(ctx, func(t *tx) error {
		var err error
		u, err = scanUser(t.row(`
			INSERT INTO account (username, password_hash, is_staff, is_active, created, updated) VALUES ($1, $2, $3, $4, $5, $5)
			ON CONFLICT (username) DO UPDATE
			   SET password_hash = excluded.password_hash, is_staff = excluded.is_staff, is_active = excluded.is_active, updated = excluded.updated
			RETURNING `+accountColumns, username, hash, staff, active, t.now))
		return err
	})
	return u, err
}

func stamps(created, updated int64) pulp.Stamps {
	return pulp.Stamps{Created: fromMicros(created), Updated: fromMicros(updated)}
}

// null returns a SQL NULL for an empty string.
func null(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }

// pointer returns nil for a SQL NULL.
func pointer(s sql.NullString) *string {
	if !s.Valid {
		return nil
	}
	return &s.String
}
