package accounts

import (
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Assign gives an account a role on an object, in the transaction of the caller. object is an access.Key, or empty for
// all objects. An assignment that exists stays. It has no effect if the account was deleted, or is the identity of a
// rule, whose rights come from the configuration. The caller announces the change with Changed.
func Assign(t *sqldb.Tx, accountID int64, role, object string) error {
	_, err := t.Exec(`
		INSERT INTO role_assignment (id, role_id, account_id, object, created, updated)
		SELECT $1, r.id, a.id, $4, $5, $5 FROM role r, account a WHERE r.name = $2 AND a.id = $3 AND a.kind <> 'oidc'
		ON CONFLICT DO NOTHING`, pulp.NewID(), role, accountID, object, t.Now)
	return err
}

// OnChange registers a function that runs in this process after each change of accounts, groups, roles, assignments or
// API tokens is committed, before its caller continues. Call it before the store is used.
func (s *Store) OnChange(f func()) { s.onChange = append(s.onChange, f) }

// Changed announces, when the transaction is committed, that it changed accounts, groups, roles, assignments or API
// tokens.
func (s *Store) Changed(t *sqldb.Tx) {
	t.OnCommit(func() {
		for _, f := range s.onChange {
			f()
		}
	})
}
