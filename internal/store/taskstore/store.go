// Package taskstore stores tasks: their queues, claims, leases and results, and the workers that run them.
package taskstore

import "github.com/countersign/countersign/internal/store/sqldb"

// Store is safe for concurrent use.
type Store struct{ db *sqldb.DB }

// New returns a store on a database.
func New(db *sqldb.DB) *Store { return &Store{db: db} }
