// Package upstreamstate stores the state of the server in front of an upstream: tags that are to be written there (outbox.go),
// adopted content (adopt.go), recorded differences (drift.go) and manifests that a hidden tag keeps alive there (pin.go).
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
