// Package list answers the filtered, sorted and paged lists of the API. Each resource has a List with its columns and the
// fields that filters and orders may use (resource.go, content.go). Filters (filter.go) write SQL text from these fields
// only (statement.go); values of users are always arguments.
package list

import "github.com/countersign/countersign/internal/store/sqldb"

// Store is safe for concurrent use.
type Store struct {
	db     *sqldb.DB
	counts *counts
	few    int // see fewRepositories
}

// New returns a store on a database.
func New(db *sqldb.DB) *Store { return &Store{db: db, counts: newCounts(db), few: fewRepositories} }
