package sqldb

import (
	"context"
	"database/sql"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Bounds of the statements that stay prepared on SQLite. Each statement takes memory on every connection of the pool.
const (
	preparedFixed    = 512     // constant texts; the stores have fewer
	preparedComposed = 64      // texts that lists compose from filters
	preparedText     = 4 << 10 // bytes of a text; longer ones are prepared for each use
)

// prepared is a pool of connections that keeps recently used statements prepared: preparing a look-up costs SQLite more than
// running it. Composed texts have a separate cache, so they do not evict constant ones. It is safe for concurrent use.
type prepared struct {
	*sql.DB
	fixed, lists *statements
}

func newPrepared(db *sql.DB) *prepared {
	return &prepared{DB: db, fixed: newStatements(db, preparedFixed), lists: newStatements(db, preparedComposed)}
}

// QueryContext implements Querier.
func (p *prepared) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return p.fixed.QueryContext(ctx, query, args...)
}

// QueryRowContext implements Querier.
func (p *prepared) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return p.fixed.QueryRowContext(ctx, query, args...)
}

// composed implements pool.
func (p *prepared) composed() Querier { return p.lists }

// Close closes the statements and the pool.
func (p *prepared) Close() error {
	p.fixed.close()
	p.lists.close()
	return p.DB.Close()
}

// statements is an LRU cache of prepared statements.
type statements struct {
	db *sql.DB

	mu      sync.Mutex
	kept    *simplelru.LRU[string, *keptStatement]
	evicted []*sql.Stmt // to be closed without the lock; see closeEvicted
}

// keptStatement is a prepared statement. The lock of statements guards its fields.
type keptStatement struct {
	*sql.Stmt
	users int  // calls that are about to run it
	gone  bool // no longer kept: the last user closes it
}

func newStatements(db *sql.DB, most int) *statements {
	s := &statements{db: db}
	// The only error is a size below 1.
	s.kept, _ = simplelru.NewLRU(most, func(_ string, k *keptStatement) {
		if k.gone = true; k.users == 0 {
			s.evicted = append(s.evicted, k.Stmt)
		}
	})
	return s
}

// use returns the prepared statement of a text for one call. The caller releases it.
func (s *statements) use(ctx context.Context, query string) (*keptStatement, error) {
	s.mu.Lock()
	k, ok := s.kept.Get(query)
	if ok {
		k.users++
	}
	s.mu.Unlock()
	if ok {
		return k, nil
	}
	made, err := s.db.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	if k, ok = s.kept.Get(query); ok { // another call was faster
		s.evicted = append(s.evicted, made)
	} else {
		k = &keptStatement{Stmt: made}
		s.kept.Add(query, k)
	}
	k.users++
	s.closeEvicted()
	return k, nil
}

// release ends a use. Rows that are still being read keep the statement open.
func (s *statements) release(k *keptStatement) {
	s.mu.Lock()
	if k.users--; k.gone && k.users == 0 {
		s.evicted = append(s.evicted, k.Stmt)
	}
	s.closeEvicted()
}

// closeEvicted unlocks the cache and then closes the evicted statements, because closing may wait for a connection.
func (s *statements) closeEvicted() {
	evicted := s.evicted
	s.evicted = nil
	s.mu.Unlock()
	for _, stmt := range evicted {
		_ = stmt.Close()
	}
}

// QueryContext implements Querier.
func (s *statements) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if len(query) > preparedText {
		return s.db.QueryContext(ctx, query, args...)
	}
	k, err := s.use(ctx, query)
	if err != nil {
		return nil, err
	}
	defer s.release(k)
	return k.QueryContext(ctx, args...)
}

// QueryRowContext implements Querier.
func (s *statements) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if len(query) > preparedText {
		return s.db.QueryRowContext(ctx, query, args...)
	}
	k, err := s.use(ctx, query)
	if err != nil { // the row has the error
		return s.db.QueryRowContext(ctx, query, args...)
	}
	defer s.release(k)
	return k.QueryRowContext(ctx, args...)
}

func (s *statements) close() {
	s.mu.Lock()
	s.kept.Purge()
	s.closeEvicted()
}
