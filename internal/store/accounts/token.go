package accounts

import (
	"context"
	"database/sql"
	"time"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// maxTokens is the number of API tokens that an account can have.
const maxTokens = 1000

// ExpiredKept is the time for which an expired API token is still listed.
const ExpiredKept = 30 * 24 * time.Hour

const noToken = "No Token matches the given query."

// CreateAPIToken stores a new API token of the account AccountID and returns it with its secret, which is not stored.
// It sets id, hint and timestamps. The error is Invalid if the account has too many tokens, and NotFound if it was
// deleted.
func (s *Store) CreateAPIToken(ctx context.Context, k access.APIToken) (access.APIToken, string, error) {
	secret, hint := access.NewSecret()
	created, err := sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (access.APIToken, error) {
		var n int
		if err := t.Row(`SELECT COUNT(*) FROM api_token WHERE account_id = $1`, k.AccountID).Scan(&n); err != nil {
			return access.APIToken{}, err
		}
		if n >= maxTokens {
			return access.APIToken{}, fault.New(fault.Invalid, "An account can have at most %d tokens. Delete unused ones.", maxTokens)
		}
		id := pulp.NewID()
		n64, err := t.Exec(`
			INSERT INTO api_token (id, account_id, name, hash, hint, patterns, actions, expires, created, updated, parent_id)
			SELECT $1, a.id, $3, $4, $5, $6, $7, $8, $9, $9, $10 FROM account a WHERE a.id = $2`,
			id, k.AccountID, k.Name, access.HashSecret(secret), hint, nullJSON(k.Patterns), nullJSON(k.Actions), nullTime(k.Expires),
			t.Now, sql.NullString{String: k.Parent, Valid: k.Parent != ""})
		if err == nil && n64 == 0 {
			err = fault.New(fault.NotFound, noUser)
		}
		if err != nil {
			return access.APIToken{}, err
		}
		return record.ScanAPIToken(t.Row(`SELECT `+record.APITokenColumns+record.APITokenSource+` WHERE t.id = $1`, id))
	})
	return created, secret, err
}

// nullJSON returns NULL for a nil list.
func nullJSON[T any](list []T) sql.NullString {
	if list == nil {
		return sql.NullString{}
	}
	return sql.NullString{String: sqldb.ToJSON(list), Valid: true}
}

func nullTime(t *time.Time) sql.NullInt64 {
	if t == nil {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: sqldb.Micros(*t), Valid: true}
}

// APIToken returns the API token with an id. The error is NotFound if there is none.
func (s *Store) APIToken(ctx context.Context, id string) (access.APIToken, error) {
	return s.apiToken(ctx, `t.id = $1`, id)
}

// APITokenByHash returns the API token whose secret has a hash (access.HashSecret). The error is NotFound if there is
// none.
func (s *Store) APITokenByHash(ctx context.Context, hash string) (access.APIToken, error) {
	return s.apiToken(ctx, `t.hash = $1`, hash)
}

func (s *Store) apiToken(ctx context.Context, condition, value string) (access.APIToken, error) {
	k, err := record.ScanAPIToken(s.db.Read().QueryRowContext(ctx,
		`SELECT `+record.APITokenColumns+record.APITokenSource+` WHERE `+condition, value))
	return k, sqldb.NotFound(err, noToken)
}

// DeleteAPIToken deletes an API token. The error is NotFound if there is none.
func (s *Store) DeleteAPIToken(ctx context.Context, id string) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		s.Changed(t)
		n, err := t.Exec(`DELETE FROM api_token WHERE id = $1`, id)
		if err == nil && n == 0 {
			err = fault.New(fault.NotFound, noToken)
		}
		return err
	})
}

// PurgeAPITokens deletes at most limit API tokens that expired before a time, and returns their number.
func (s *Store) PurgeAPITokens(ctx context.Context, before time.Time, limit int) (int64, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (int64, error) {
		return t.Exec(`
			DELETE FROM api_token WHERE id IN (SELECT t.id FROM api_token t WHERE t.expires < $1 LIMIT $2)`,
			sqldb.Micros(before), limit)
	})
}

// APITokensUsed records when API tokens, by their ids, were last used.
func (s *Store) APITokensUsed(ctx context.Context, at map[string]time.Time) error {
	return s.db.InTxNoSync(ctx, func(t *sqldb.Tx) error {
		for id, used := range at {
			if _, err := t.Exec(`UPDATE api_token SET last_used = $2 WHERE id = $1`, id, sqldb.Micros(used)); err != nil {
				return err
			}
		}
		return nil
	})
}
