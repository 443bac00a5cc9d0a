package sqldb

import (
	"context"
	"database/sql"
	"sync/atomic"
)

// pool is a set of connections for reads.
type pool interface {
	Querier
	// composed returns the querier for texts that are composed from a caller's filters. Their number has no bound, so few of
	// them stay prepared.
	composed() Querier
	// Stats returns the use of the connections.
	Stats() sql.DBStats
	Close() error
}

// countedPool counts the queries of a pool.
type countedPool struct {
	pool
	count atomic.Int64
}

// QueryContext implements Querier.
func (p *countedPool) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return counted{p.pool, &p.count}.QueryContext(ctx, query, args...)
}

// QueryRowContext implements Querier.
func (p *countedPool) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return counted{p.pool, &p.count}.QueryRowContext(ctx, query, args...)
}

// composed implements pool.
func (p *countedPool) composed() Querier { return counted{p.pool.composed(), &p.count} }

// counted counts the queries of a querier.
type counted struct {
	querier Querier
	count   *atomic.Int64
}

// QueryContext implements Querier.
func (c counted) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	c.count.Add(1)
	return c.querier.QueryContext(ctx, query, args...)
}

// QueryRowContext implements Querier.
func (c counted) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	c.count.Add(1)
	return c.querier.QueryRowContext(ctx, query, args...)
}
