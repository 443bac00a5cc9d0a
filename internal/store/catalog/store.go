// Package catalog stores repositories, distributions, namespaces and remotes: the objects that an administrator creates, edits
// and deletes, and those that a first push creates.
package catalog

import (
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/serving"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Store is safe for concurrent use.
type Store struct {
	db      *sqldb.DB
	content *content.Store
	serving *serving.Store
}

// New returns a store on a database.
func New(db *sqldb.DB, c *content.Store, s *serving.Store) *Store {
	return &Store{db: db, content: c, serving: s}
}
