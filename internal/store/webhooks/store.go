// Package webhooks stores webhooks and reads the events that package eventlog records for them: the streams of deliveries, their
// results and the attempts at them.
//
// A process claims a stream before it delivers, with a lease. Each claim raises the stream's fence, and every write of the
// process compares it, so a process that lost its lease changes nothing.
package webhooks

import (
	"errors"

	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Store is safe for concurrent use.
type Store struct {
	db       *sqldb.DB
	accounts *accounts.Store
}

// New returns a store on a database.
func New(db *sqldb.DB, a *accounts.Store) *Store { return &Store{db: db, accounts: a} }

// ErrFenced is the error of a write by a process that does not hold the stream any more. The write had no effect.
var ErrFenced = errors.New("another process delivers the events of this stream")
