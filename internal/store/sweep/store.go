// Package sweep removes content that nothing references, and upload sessions that were abandoned.
package sweep

import "github.com/countersign/countersign/internal/store/sqldb"

// Store is safe for concurrent use.
type Store struct{ db *sqldb.DB }

// New returns a store on a database.
func New(db *sqldb.DB) *Store { return &Store{db: db} }
