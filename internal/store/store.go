// Package store opens the database and the stores on it. Each store is a package that owns the statements on its tables; arrows
// between them point one way:
//
//	sqldb ← {audits, eventlog}
//	sqldb ← record ← {accounts, taskstore, uploads, list, serving, sweep}
//	eventlog ← {taskstore, content, webhooks}
//	record, taskstore, uploads ← content ← {catalog, signatures, upstreamstate}
//	accounts ← {catalog, webhooks}
package store

import (
	"context"

	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/audits"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/serving"
	"github.com/countersign/countersign/internal/store/signatures"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/sweep"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/internal/store/uploads"
	"github.com/countersign/countersign/internal/store/upstreamstate"
	"github.com/countersign/countersign/internal/store/webhooks"
)

// Store is an open database with the stores on it. It is safe for concurrent use.
type Store struct {
	DB         *sqldb.DB
	Accounts   *accounts.Store
	Audits     *audits.Store
	Catalog    *catalog.Store
	Content    *content.Store
	Lists      *list.Store
	Serving    *serving.Store
	Signatures *signatures.Store
	Sweeps     *sweep.Store
	Tasks      *taskstore.Store
	Uploads    *uploads.Store
	Upstream   *upstreamstate.Store
	Webhooks   *webhooks.Store
}

// Open opens the database at a URL; see sqldb.Open.
func Open(ctx context.Context, rawURL string) (*Store, error) {
	db, err := sqldb.Open(ctx, rawURL)
	if err != nil {
		return nil, err
	}
	s := &Store{
		DB: db, Accounts: accounts.New(db), Audits: audits.New(db), Lists: list.New(db), Serving: serving.New(db),
		Sweeps: sweep.New(db), Tasks: taskstore.New(db), Uploads: uploads.New(db),
	}
	s.Content = content.New(db, s.Serving)
	s.Catalog = catalog.New(db, s.Accounts, s.Content, s.Serving)
	s.Signatures = signatures.New(db, s.Content)
	s.Upstream = upstreamstate.New(db, s.Content)
	s.Webhooks = webhooks.New(db, s.Accounts)
	return s, nil
}

// Close closes the database; see sqldb.DB.Close.
func (s *Store) Close() error { return s.DB.Close() }
