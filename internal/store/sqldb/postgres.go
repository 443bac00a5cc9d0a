package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/retry"
)

// Bounds of the connections to PostgreSQL.
const (
	pgConns = 32
	pgIdle  = 5 * time.Minute
	pgTries = 8 // attempts of a transaction that PostgreSQL aborts in favor of another one
	// pgFirstWait and pgMaxWait bound the waits between these attempts.
	pgFirstWait, pgMaxWait = 5 * time.Millisecond, 40 * time.Millisecond
	// pgDescriptions is the number of composed texts whose types each connection remembers.
	pgDescriptions = 64
	// pgIdleTimeout bounds the time that a process may be suspended within a transaction before PostgreSQL aborts it and
	// releases its locks.
	pgIdleTimeout = 10 * time.Second
)

// pgSession is the first statement of each connection. A suspended process holds its locks for at most pgIdleTimeout, one
// whose host is gone for about a minute.
var pgSession = fmt.Sprintf(`SET idle_in_transaction_session_timeout = %d; SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3`, pgIdleTimeout.Milliseconds())

// postgres is a pool of connections to PostgreSQL. It translates the texts of the stores.
type postgres struct {
	db  *sql.DB
	now func() time.Time

	mu    sync.RWMutex
	texts map[string]string // PostgreSQL's texts, by the stores' texts
}

// openPostgres opens the database at a URL without connecting to it.
func openPostgres(rawURL string, now func() time.Time) (*postgres, error) {
	c, err := pgx.ParseConfig(rawURL)
	if err != nil {
		return nil, fault.New(fault.Invalid, "database_url: want postgres://USER:PASSWORD@HOST:PORT/DATABASE") // the library's message may contain the password
	}
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "countersign"
	}
	c.DescriptionCacheCapacity = pgDescriptions
	db := stdlib.OpenDB(*c, stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.PgConn().Exec(ctx, pgSession).ReadAll()
		return err
	}))
	db.SetMaxOpenConns(pgConns)
	db.SetMaxIdleConns(pgConns)
	db.SetConnMaxIdleTime(pgIdle)
	return &postgres{db: db, now: now, texts: map[string]string{}}, nil
}

// text returns PostgreSQL's text of a statement. All texts are cached: their number is bounded by the code.
func (p *postgres) text(query string) string {
	p.mu.RLock()
	text, ok := p.texts[query]
	p.mu.RUnlock()
	if ok {
		return text
	}
	text = toPostgres.Replace(query)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.texts[query] = text
	return text
}

// QueryContext implements Querier.
func (p *postgres) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return p.db.QueryContext(ctx, p.text(query), args...)
}

// QueryRowContext implements Querier.
func (p *postgres) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return p.db.QueryRowContext(ctx, p.text(query), args...)
}

// ExecContext implements runner.
func (p *postgres) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return p.db.ExecContext(ctx, p.text(query), args...)
}

// composed implements pool. Composed texts are prepared without a name, so the server does not keep their statements.
func (p *postgres) composed() Querier { return pgComposed{p.db} }

// pgComposed runs texts that callers compose.
type pgComposed struct{ db *sql.DB }

// QueryContext implements Querier.
func (p pgComposed) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return p.db.QueryContext(ctx, toPostgres.Replace(query), append([]any{pgx.QueryExecModeCacheDescribe}, args...)...)
}

// QueryRowContext implements Querier.
func (p pgComposed) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return p.db.QueryRowContext(ctx, toPostgres.Replace(query), append([]any{pgx.QueryExecModeCacheDescribe}, args...)...)
}

// Stats implements pool.
func (p *postgres) Stats() sql.DBStats { return p.db.Stats() }

// Close implements pool.
func (p *postgres) Close() error { return p.db.Close() }

// pgTx is a transaction on PostgreSQL.
type pgTx struct {
	tx   *sql.Tx
	pool *postgres
}

// ExecContext implements runner.
func (p *pgTx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return p.tx.ExecContext(ctx, p.pool.text(query), args...)
}

// QueryContext implements Querier.
func (p *pgTx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return p.tx.QueryContext(ctx, p.pool.text(query), args...)
}

// QueryRowContext implements Querier.
func (p *pgTx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return p.tx.QueryRowContext(ctx, p.pool.text(query), args...)
}

// inTx runs f in a transaction of its own, and again after a deadlock, so f may run more than once.
func (p *postgres) inTx(ctx context.Context, f func(*Tx) error) error {
	return again(ctx, func() error { return p.once(ctx, f) })
}

// inStatement runs f, which runs one statement, without a transaction around it.
func (p *postgres) inStatement(ctx context.Context, f func(*Tx) error) error {
	return again(ctx, func() error {
		t := &Tx{conn: p, Dialect: &postgresDialect, Ctx: ctx, Now: Micros(p.now())}
		err := t.run(f)
		if err == nil {
			t.committed()
		}
		return err
	})
}

// again runs a transaction until PostgreSQL does not abort it in favor of another one.
func again(ctx context.Context, once func() error) error {
	err := retry.Run(ctx, retry.Policy{Attempts: pgTries, First: pgFirstWait, Max: pgMaxWait}, func(context.Context) error {
		err := once()
		if e, ok := errors.AsType[*pgconn.PgError](err); ok && (e.Code == pgSerialization || e.Code == pgDeadlock) {
			return err
		}
		return retry.Permanent(err)
	})
	return unavailable(err)
}

func (p *postgres) once(ctx context.Context, f func(*Tx) error) error {
	began, err := p.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	t := &Tx{conn: &pgTx{began, p}, Dialect: &postgresDialect, Ctx: ctx, Now: Micros(p.now())}
	if err := t.run(f); err != nil {
		_ = began.Rollback()
		return err
	}
	if err := began.Commit(); err != nil {
		return err
	}
	t.committed()
	return nil
}
