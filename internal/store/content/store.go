// Package content changes the content of repositories: pushes, copies, removals, syncs, deletions, and the versions that they
// make. Change is the only way in which content enters or leaves a repository.
//
// Terms: a unit is a blob, manifest, tag or signature. A repository holds a unit if its latest version does. A pending unit was
// uploaded and is served, but is in no version yet. A fetched unit is stored for the next version and not served. An absent blob
// has no bytes here; a repository claims it of the remotes that list images with it. Large changes gather units in a temporary
// table first and apply them together (gather.go). A task's claim lets only its running attempt commit.
//
// Changes of tags are recorded for the upstream (outbox.go) if EnableOutbox was called. A Policy, if there is one, decides which
// changes must be signed before they become visible.
package content

import (
	"context"

	"github.com/countersign/countersign/internal/store/serving"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Store is safe for concurrent use after EnableOutbox and SetPolicy.
type Store struct {
	db      *sqldb.DB
	serving *serving.Store
	outbox  bool
	policy  Policy // nil: nothing need be signed
}

// New returns a store on a database.
func New(db *sqldb.DB, s *serving.Store) *Store { return &Store{db: db, serving: s} }

// EnableOutbox makes every later change of a tag record the tag in the outbox, from which it is written to the upstream. It
// must be called before the store is used, if there is an upstream.
func (s *Store) EnableOutbox() { s.outbox = true }

// SetPolicy sets the policy that every later change is checked with. It must be called before the store is used, by every
// process that changes content.
func (s *Store) SetPolicy(p Policy) { s.policy = p }

// Tx is a transaction that changes content.
type Tx struct {
	*sqldb.Tx
	store    *Store
	unsigned bool // see AllowUnsigned
}

// InTx runs f in a transaction; see sqldb.InTx for the rules that f keeps.
func InTx[T any](ctx context.Context, s *Store, f func(*Tx) (T, error)) (T, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (T, error) { return f(s.tx(ctx, t)) })
}

// InTx is the function InTx for an f without a result.
func (s *Store) InTx(ctx context.Context, f func(*Tx) error) error {
	return s.db.InTx(ctx, func(t *sqldb.Tx) error { return f(s.tx(ctx, t)) })
}

// InTxNoSync is InTx without waiting for the disk; see sqldb.InTxNoSync.
func (s *Store) InTxNoSync(ctx context.Context, f func(*Tx) error) error {
	return s.db.InTxNoSync(ctx, func(t *sqldb.Tx) error { return f(s.tx(ctx, t)) })
}

func (s *Store) tx(ctx context.Context, t *sqldb.Tx) *Tx {
	return &Tx{Tx: t, store: s, unsigned: ctx.Value(unsignedKey{}) != nil}
}
