package sqldb

import (
	"context"
	"database/sql"
)

// writerStatements is the number of statements that the writer keeps prepared. The stores have fewer texts.
const writerStatements = 1024

// connection is the writer's connection with its prepared statements: preparing costs SQLite more than running most of them.
// Only the writer's goroutine uses it.
type connection struct {
	conn   *sql.Conn
	stmts  map[string]*sql.Stmt
	noSync bool // commits do not wait for the disk
}

// setSync sets whether commits wait for the disk. SQLite accepts the setting outside transactions, while it prepares the text.
func (c *connection) setSync(wait bool) error {
	if c.noSync == !wait {
		return nil
	}
	text := `PRAGMA synchronous = NORMAL` // in WAL mode: only checkpoints wait
	if wait {
		text = `PRAGMA synchronous = FULL`
	}
	if _, err := c.conn.ExecContext(context.Background(), text); err != nil { //nolint:forbidigo // a batch belongs to many callers
		return err
	}
	c.noSync = !wait
	return nil
}

// stmt returns the prepared statement of a text, which stays prepared. It is nil for a text that is too long, or when the
// number of prepared statements has reached its bound.
func (c *connection) stmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if s := c.stmts[query]; s != nil || len(c.stmts) >= writerStatements || len(query) > preparedText {
		return s, nil
	}
	s, err := c.conn.PrepareContext(ctx, query)
	if err == nil {
		c.stmts[query] = s
	}
	return s, err
}

// ExecContext implements runner.
func (c *connection) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	s, err := c.stmt(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.conn.ExecContext(ctx, query, args...)
	}
	return s.ExecContext(ctx, args...)
}

// QueryContext implements Querier.
func (c *connection) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	s, err := c.stmt(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.conn.QueryContext(ctx, query, args...)
	}
	return s.QueryContext(ctx, args...)
}

// QueryRowContext implements Querier.
func (c *connection) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	s, err := c.stmt(ctx, query)
	if err != nil || s == nil { // the row has the error
		return c.conn.QueryRowContext(ctx, query, args...)
	}
	return s.QueryRowContext(ctx, args...)
}

func (c *connection) close() error {
	for _, s := range c.stmts {
		_ = s.Close()
	}
	return c.conn.Close()
}
