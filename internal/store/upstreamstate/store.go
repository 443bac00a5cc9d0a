// Package upstreamstate stores the state that a server in front of an upstream needs: the outbox of tags to write there
// (outbox.go), tags and content adopted from there (tag.go, adopt.go), the differences that comparisons found (drift.go),
// and the manifests that a pin, a hidden tag, protects from the upstream's garbage collection (pin.go).
package upstreamstate

import (
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Store is safe for concurrent use.
type Store struct {
	db      *sqldb.DB
	content *content.Store
}

// New returns a store on a database.
func New(db *sqldb.DB, c *content.Store) *Store { return &Store{db: db, content: c} }
