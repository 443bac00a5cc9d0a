// Package sweep deletes content that nothing references and upload sessions that were abandoned.
//
// A unit is unreferenced if no version of any repository holds it and unversioned_content has no row of it. Rows of
// unversioned_content are swept first, each reason with a grace period of its own; units follow when their own grace period has
// passed. Bytes in the storage registry are deleted by the caller between DoomBlobs and ForgetBlob.
//
// Sweeps that delete rows which other transactions may be about to reference take sqldb.Tx.LockContent.
package sweep

import (
	"context"

	"github.com/countersign/countersign/internal/store/sqldb"
)

// Store is safe for concurrent use.
type Store struct{ db *sqldb.DB }

// New returns a store on a database.
func New(db *sqldb.DB) *Store { return &Store{db: db} }

// locked runs f in a transaction during which no other transaction adds references to content, and returns its result.
func locked[T any](ctx context.Context, s *Store, f func(*sqldb.Tx) (T, error)) (T, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (T, error) {
		if err := t.LockContent(); err != nil {
			var none T
			return none, err
		}
		return f(t)
	})
}
