package store

import (
	"context"
	"database/sql"
	"sync/atomic"
)

// countedPool counts the queries that a pool runs.
type countedPool struct {
	pool
	count atomic.Int64
}

// QueryContext implements querier.
func (p *countedPool) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	p.count.Add(1)
	return p.pool.QueryContext(ctx, query, args...)
}

// QueryRowContext implements querier.
func (p *countedPool) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	p.count.Add(1)
	return p.pool.QueryRowContext(ctx, query, args...)
}

// Reads returns the number of queries that were run outside transactions since Open. Answers from memory do not count.
func (s *Store) Reads() int64 { return s.read.count.Load() }
