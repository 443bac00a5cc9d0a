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
	return counted{p.pool, &p.count}.QueryContext(ctx, query, args...)
}

// QueryRowContext implements querier.
func (p *countedPool) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return counted{p.pool, &p.count}.QueryRowContext(ctx, query, args...)
}

// composed implements pool.
func (p *countedPool) composed() querier { return counted{p.pool.composed(), &p.count} }

// counted counts the queries that a querier runs.
type counted struct {
	querier
	count *atomic.Int64
}

// QueryContext implements querier.
func (c counted) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	c.count.Add(1)
	return c.querier.QueryContext(ctx, query, args...)
}

// QueryRowContext implements querier.
func (c counted) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	c.count.Add(1)
	return c.querier.QueryRowContext(ctx, query, args...)
}

// Reads returns the number of queries that were run outside transactions since Open. Answers from memory do not count.
func (s *Store) Reads() int64 { return s.read.count.Load() }
