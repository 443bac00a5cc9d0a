package accounts

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// tokenPrefix begins the secrets of API tokens, so that people and programs recognize them.
const tokenPrefix = "cst_"

// hintLength is the number of characters of a secret that are stored.
const hintLength = 8

// tokenHash returns the stored form of a secret. Secrets are random, so that a fast hash suffices.
func tokenHash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// CreateToken creates an API token of t.AccountID and returns it with its secret, which is not stored. The error is
// NotFound if the account does not exist.
func (s *Store) CreateToken(ctx context.Context, t pulp.APIToken) (created pulp.APIToken, secret string, err error) {
	secret = tokenPrefix + rand.Text()
	t.ID, t.Hint = pulp.NewID(), secret[:hintLength]
	var patterns, actions, expires any
	if t.Patterns != nil {
		patterns = sqldb.ToJSON(t.Patterns)
	}
	if t.Actions != nil {
		actions = sqldb.ToJSON(t.Actions)
	}
	if !t.Expires.IsZero() {
		expires = t.Expires.UnixMicro()
	}
	created, err = sqldb.InTx(ctx, s.db, func(x *sqldb.Tx) (pulp.APIToken, error) {
		s.Changed(x)
		n, err := x.Exec(`
			INSERT INTO api_token (id, account_id, name, hash, hint, patterns, actions, expires, created, updated)
			SELECT $1, a.id, $3, $4, $5, $6, $7, $8, $9, $9 FROM account a WHERE a.id = $2`,
			t.ID, t.AccountID, t.Name, tokenHash(secret), t.Hint, patterns, actions, expires, x.Now)
		if err == nil && n == 0 {
			err = fault.New(fault.NotFound, noUser)
		}
		t.Created, t.Updated = time.UnixMicro(x.Now), time.UnixMicro(x.Now)
		return t, err
	})
	return created, secret, err
}
