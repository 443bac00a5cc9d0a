// Package signatures stores signing services and signatures, and decides which tags must be signed before they are visible
// (required.go).
package signatures

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
