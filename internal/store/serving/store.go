// Package serving reads content as the registry protocol serves it: the target of a base path, and the manifests, blobs, tags,
// signatures and referrers in the version that the target serves.
package serving

import "github.com/countersign/countersign/internal/store/sqldb"

// Store is safe for concurrent use.
type Store struct {
	db    *sqldb.DB
	cache *cache // nil: every answer comes from the database
}

// New returns a store on a database.
func New(db *sqldb.DB) *Store { return &Store{db: db} }
