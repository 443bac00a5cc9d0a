// Package catalog stores repositories, distributions, namespaces and remotes: the objects that an administrator creates,
// edits and deletes, and those that a first push creates.
//
// Methods with a claim also complete the claimed task in the same transaction: its result is the changed object or the
// number of deleted objects. A nil claim stands for a change outside a task. If the task was lost to another worker in the
// meantime, the transaction fails and changes nothing.
package catalog

import (
	"context"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/serving"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Store is safe for concurrent use.
type Store struct {
	db       *sqldb.DB
	accounts *accounts.Store
	content  *content.Store
	serving  *serving.Store
}

// New returns a store on a database.
func New(db *sqldb.DB, a *accounts.Store, c *content.Store, s *serving.Store) *Store {
	return &Store{db: db, accounts: a, content: c, serving: s}
}

// own gives an account a role on an object that it creates; 0 for no account. Grants that were read before the object
// existed are no longer used.
func (s *Store) own(t *content.Tx, owner int64, role string, kind access.Kind, id string) error {
	s.accounts.Changed(t.Tx)
	if owner == 0 {
		return nil
	}
	return accounts.Assign(t.Tx, owner, role, access.Key(kind, id))
}

// uniqueAttempts is the number of attempts of inTxUnlessTaken.
const uniqueAttempts = 3

// inTxUnlessTaken runs a transaction that checks that names and paths are free before it uses them. It runs the transaction
// again if another one used such a name in between, so that the check finds it.
func inTxUnlessTaken[T any](ctx context.Context, s *Store, f func(*content.Tx) (T, error)) (v T, err error) {
	for range uniqueAttempts {
		if v, err = content.InTx(ctx, s.content, f); !sqldb.IsUnique(err) {
			return v, err
		}
	}
	return v, err
}
