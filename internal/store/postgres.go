package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/countersign/countersign/internal/fault"
)

// PostgreSQL's codes of errors (appendix A of its manual).
const (
	pgUnique        = "23505"
	pgSerialization = "40001"
	pgDeadlock      = "40P01"
	pgStoodStill    = "25P03"
)

// Bounds of the connections to PostgreSQL.
const (
	pgConns = 32
	pgIdle  = 5 * time.Minute
	pgTries = 8 // times a transaction is run that lost to another
	pgRetry = 5 * time.Millisecond
	// pgDescriptions is how many texts that callers compose each connection knows the types of.
	pgDescriptions = 64
	// pgStill is how long a process may stand still in the middle of a transaction, and the locks of it with it, before the transaction is given up.
	pgStill = 10 * time.Second
)

// pgSession is what each connection begins with. A process that stands still, or whose host is gone, holds no lock for longer than pgStill or about a minute.
var pgSession = fmt.Sprintf(`SET idle_in_transaction_session_timeout = %d; SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3`, pgStill.Milliseconds())

// postgres is a pool of connections to PostgreSQL that speaks its words.
type postgres struct {
	db *sql.DB

	mu    sync.RWMutex
	texts map[string]string // by our texts
}

// openPostgres opens the database that a URL names. It reaches for it.
func openPostgres(rawURL string) (*postgres, error) {
	c, err := pgx.ParseConfig(rawURL)
	if err != nil {
		return nil, fault.New(fault.Invalid, "database_url: want postgres://USER:PASSWORD@HOST:PORT/DATABASE") // the library's words may hold the password
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
	return &postgres{db: db, texts: map[string]string{}}, nil
}

// text returns PostgreSQL's text for one of the store's own. All are kept: their number is the code's.
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

// QueryContext implements querier.
func (p *postgres) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return p.db.QueryContext(ctx, p.text(query), args...)
}

// QueryRowContext implements querier.
func (p *postgres) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return p.db.QueryRowContext(ctx, p.text(query), args...)
}

// ExecContext implements runner.
func (p *postgres) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return p.db.ExecContext(ctx, p.text(query), args...)
}

// composed implements pool. What lists compose is prepared without a name, so that the server keeps none of it.
func (p *postgres) composed() querier { return pgComposed{p.db} }

// pgComposed runs texts that callers compose.
type pgComposed struct{ db *sql.DB }

// QueryContext implements querier.
func (p pgComposed) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return p.db.QueryContext(ctx, toPostgres.Replace(query), append([]any{pgx.QueryExecModeCacheDescribe}, args...)...)
}

// QueryRowContext implements querier.
func (p pgComposed) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return p.db.QueryRowContext(ctx, toPostgres.Replace(query), append([]any{pgx.QueryExecModeCacheDescribe}, args...)...)
}

// Close implements pool.
func (p *postgres) Close() error { return p.db.Close() }

// pgTx is a transaction that speaks PostgreSQL's words.
type pgTx struct {
	tx   *sql.Tx
	pool *postgres
}

// ExecContext implements runner.
func (p *pgTx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return p.tx.ExecContext(ctx, p.pool.text(query), args...)
}

// QueryContext implements querier.
func (p *pgTx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return p.tx.QueryContext(ctx, p.pool.text(query), args...)
}

// QueryRowContext implements querier.
func (p *pgTx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return p.tx.QueryRowContext(ctx, p.pool.text(query), args...)
}

// inTx runs f in a transaction of its own, and again when it lost a deadlock to another. f may so run more than once.
func (p *postgres) inTx(ctx context.Context, s *Store, f func(*tx) error) error {
	return retried(ctx, func() error { return p.once(ctx, s, f) })
}

// inStatement runs f, which runs one statement, without a transaction around it.
func (p *postgres) inStatement(ctx context.Context, s *Store, f func(*tx) error) error {
	return retried(ctx, func() error {
		t := &tx{conn: p, dialect: &postgresDialect, ctx: ctx, now: micros(s.now()), outbox: s.outbox}
		return guard(t, f)
	})
}

// retried runs a transaction again that lost to another.
func retried(ctx context.Context, once func() error) error {
	for try := 1; ; try++ {
		err := once()
		e, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || e.Code != pgSerialization && e.Code != pgDeadlock || try == pgTries {
			return unavailable(err)
		}
		select {
		case <-time.After(time.Duration(try) * pgRetry):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *postgres) once(ctx context.Context, s *Store, f func(*tx) error) error {
	began, err := p.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	t := &tx{conn: &pgTx{began, p}, dialect: &postgresDialect, ctx: ctx, now: micros(s.now()), outbox: s.outbox, sealing: s.sealing}
	t.mayBeUnsigned = ctx.Value(mayBeUnsigned{}) != nil
	if err := guard(t, f); err != nil {
		_ = began.Rollback()
		return err
	}
	return began.Commit()
}

// awayError is the error of a database that does not answer.
type awayError struct{ error }

// Unwrap returns what the driver said.
func (e awayError) Unwrap() error { return e.error }

// unavailable makes the error of a database that does not answer one that says so.
func unavailable(err error) error {
	if Away(err) {
		return fault.Wrap(fault.Unavailable, awayError{err}, "The database does not answer.")
	}
	return err
}

// Away says whether an error comes from a database that does not answer: it is being restarted, or the way to it is broken. A broken way to something else, which
// a fault.Error tells of, is not meant.
func Away(err error) bool {
	if err == nil {
		return false
	}
	if _, said := errors.AsType[awayError](err); said {
		return true
	}
	if _, said := errors.AsType[*fault.Error](err); said {
		return false
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && len(e.Code) == 5 {
		switch e.Code[:2] { // connection exceptions, insufficient resources, operator intervention
		case "08", "53", "57":
			return true
		}
		return e.Code == pgStoodStill
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	_, network := errors.AsType[*net.OpError](err)
	return network || errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, io.ErrUnexpectedEOF)
}
