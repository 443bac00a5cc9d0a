// Package accounts stores the users of the server, their groups, roles and API tokens.
package accounts

import "github.com/countersign/countersign/internal/store/sqldb"

// Store is safe for concurrent use.
type Store struct {
	db       *sqldb.DB
	onChange []func()
}

// New returns a store on a database.
func New(db *sqldb.DB) *Store { return &Store{db: db} }
