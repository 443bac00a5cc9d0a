package store

import (
	"context"
	"database/sql"
	"sync"
)

// preparedMost is how many statements are kept prepared. The store's own texts are fewer; lists put theirs together from
// filters, and what comes after the limit is prepared for each use.
const preparedMost = 512

// prepared is a pool of connections that prepares each text once: preparing costs SQLite more than running a look-up does.
type prepared struct {
	*sql.DB
	mu    sync.RWMutex
	stmts map[string]*sql.Stmt
}

func newPrepared(db *sql.DB) *prepared { return &prepared{DB: db, stmts: map[string]*sql.Stmt{}} }

// stmt returns a text's prepared statement; nil when as many as may be are kept already.
func (p *prepared) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	p.mu.RLock()
	s, full := p.stmts[query], len(p.stmts) >= preparedMost
	p.mu.RUnlock()
	if s != nil || full {
		return s, nil
	}
	s, err := p.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if kept := p.stmts[query]; kept != nil {
		return kept, s.Close()
	}
	p.stmts[query] = s
	return s, nil
}

// QueryContext implements querier.
func (p *prepared) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	s, err := p.stmt(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return p.DB.QueryContext(ctx, query, args...)
	}
	return s.QueryContext(ctx, args...)
}

// QueryRowContext implements querier.
func (p *prepared) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	s, err := p.stmt(ctx, query)
	if err != nil || s == nil { // the row has the error
		return p.DB.QueryRowContext(ctx, query, args...)
	}
	return s.QueryRowContext(ctx, args...)
}

// Close closes the statements and the pool.
func (p *prepared) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.stmts {
		_ = s.Close()
	}
	clear(p.stmts)
	return p.DB.Close()
}
