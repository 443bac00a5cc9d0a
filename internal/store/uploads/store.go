// Package uploads stores upload sessions: blobs that clients are sending.
package uploads

import "github.com/countersign/countersign/internal/store/sqldb"

// Store is safe for concurrent use.
type Store struct{ db *sqldb.DB }

// New returns a store on a database.
func New(db *sqldb.DB) *Store { return &Store{db: db} }
