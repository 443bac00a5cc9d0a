package sqldb

import (
	"context"
	"database/sql"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Bounds of the statements that stay prepared on SQLite. Each takes memory on every connection of the pool.
const (
	preparedFixed    = 512     // texts of the store's own, which are fewer
	preparedComposed = 64      // texts that lists put together from filters
	preparedText     = 4 << 10 // bytes of a text; longer ones are prepared for each use
)

// prepared is a pool of connections that keeps the statements prepared that were used last: preparing costs SQLite more than running a look-up does.
// Texts that callers compose have a share of their own, so that they displace none of the others. It is safe for concurrent use.
type prepared struct {
	*sql.DB
	fixed, lists *statements
}

func newPrepared(db *sql.DB) *prepared {
	return &prepared{DB: db, fixed: newStatements(db, preparedFixed), lists: newStatements(db, preparedComposed)}
}

// QueryContext implements querier.
func (p *prepared) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return p.fixed.QueryContext(ctx, query, args...)
}

// QueryRowContext implements querier.
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

// statements keeps a limited number of statements prepared, those that were used last.
type statements struct {
	db *sql.DB

	mu      sync.Mutex
	kept    *simplelru.LRU[string, *keptStatement]
	evicted []*sql.Stmt // to be closed by the next caller that holds no lock
}

// keptStatement is a prepared statement. Its fields belong to the lock of statements.
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

// use returns a text's statement, prepared, for one call. The caller releases it.
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

// release ends a use. Rows that are still being read keep their statement alive themselves.
func (s *statements) release(k *keptStatement) {
	s.mu.Lock()
	if k.users--; k.gone && k.users == 0 {
		s.evicted = append(s.evicted, k.Stmt)
	}
	s.closeEvicted()
}

// closeEvicted gives the lock up and closes the statements that are no longer kept: that may wait for a connection.
func (s *statements) closeEvicted() {
	evicted := s.evicted
	s.evicted = nil
	s.mu.Unlock()
	for _, stmt := range evicted {
		_ = stmt.Close()
	}
}

// QueryContext implements querier.
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

// QueryRowContext implements querier.
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
