package accounts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// RuleAccount returns the account of a rule for CI tokens, and creates it if it does not exist. The error is Conflict
// if the name belongs to an account of another kind.
func (s *Store) RuleAccount(ctx context.Context, username string) (pulp.User, error) {
	u, err := s.UserByName(ctx, username)
	if fault.Is(err, fault.NotFound) {
		if err := s.createRuleAccount(ctx, username); err != nil {
			return pulp.User{}, err
		}
		u, err = s.UserByName(ctx, username)
	}
	if err == nil && u.Kind != pulp.RuleIdentity {
		return pulp.User{}, fault.New(fault.Conflict, "The account %s is not that of a rule. Rename the rule.", username)
	}
	return u, err
}

// createRuleAccount creates the account of a rule, unless another server has created it meanwhile.
func (s *Store) createRuleAccount(ctx context.Context, username string) error {
	_, err := s.CreateUser(ctx, pulp.User{Username: username, Kind: pulp.RuleIdentity, Active: true})
	if fault.Is(err, fault.Invalid) {
		return nil
	}
	return err
}

// RolePermissions returns the permissions of a role; none if it does not exist.
func (s *Store) RolePermissions(ctx context.Context, name string) (access.Set, error) {
	scan := func(r sqldb.Scanner) (p access.Permission, err error) { return p, r.Scan(&p) }
	all, err := sqldb.Collect(ctx, s.db.Read(), scan,
		`SELECT p.permission FROM role r JOIN role_permission p ON p.role_id = r.id WHERE r.name = $1`, name)
	return access.SetOf(all...), err
}

// RoleExists reports whether there is a role with a name.
func (s *Store) RoleExists(ctx context.Context, name string) (bool, error) {
	var n int
	err := s.db.Read().QueryRowContext(ctx, `SELECT COUNT(*) FROM role WHERE name = $1`, name).Scan(&n)
	return n > 0, err
}

// usedKept is the time for which the use of a token is recorded after its expiry. It exceeds the tolerated difference
// between clocks.
const usedKept = time.Hour

// UseToken records that a token of an issuer was used that may be used once. The error is Conflict if it was used
// before, on any server.
func (s *Store) UseToken(ctx context.Context, issuer, id string, expires time.Time) error {
	sum := sha256.Sum256([]byte(issuer + "\x00" + id))
	return s.db.InTx(ctx, func(t *sqldb.Tx) error {
		if _, err := t.Exec(`DELETE FROM used_token WHERE expires < $1`, t.Now-usedKept.Microseconds()); err != nil {
			return err
		}
		n, err := t.Exec(`INSERT INTO used_token (id, expires) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING`,
			hex.EncodeToString(sum[:]), expires.UnixMicro())
		if err == nil && n == 0 {
			err = fault.New(fault.Conflict, "This token was used before.")
		}
		return err
	})
}
