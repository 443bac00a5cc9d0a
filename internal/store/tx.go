package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/countersign/countersign/internal/fault"
)

// maxBatch is how many waiting writes one commit may take with it.
const maxBatch = 64

var errClosed = fault.New(fault.Unavailable, "The database is closed.")

// querier reads: the pool of readers, or a transaction that sees its own writes.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// runner runs statements: the writer's connection to SQLite, or a transaction on PostgreSQL.
type runner interface {
	querier
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// connection is the writer's own connection to SQLite, with the statements that it has prepared: preparing costs SQLite more than
// running most of them does. Only the writer's goroutine uses it.
type connection struct {
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
	lazy  bool // commits do not wait for the disk
}

// sync says whether commits wait for the disk from now on. SQLite takes the setting outside transactions, while it prepares the text.
func (c *connection) sync(wait bool) error {
	if c.lazy == !wait {
		return nil
	}
	text := `PRAGMA synchronous = NORMAL` // in WAL mode: only checkpoints wait
	if wait {
		text = `PRAGMA synchronous = FULL`
	}
	if _, err := c.conn.ExecContext(context.Background(), text); err != nil { //nolint:forbidigo // a batch is many callers'
		return err
	}
	c.lazy = !wait
	return nil
}

// writerStatements is how many statements the writer keeps prepared. Its texts are the store's own, and fewer.
const writerStatements = 1024

// stmt returns a text's prepared statement, which stays prepared; nil for a text that is too long, or when as many as may be are prepared already.
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

// QueryContext implements querier.
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

// QueryRowContext implements querier.
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

// tx is a running write. On SQLite its statements cannot be cancelled one by one: an interrupted statement would roll back the
// whole transaction, and with it the other writes of the batch. Everything in it carries one time.
type tx struct {
	conn    runner
	dialect *dialect
	ctx     context.Context //nolint:containedctx // it is the transaction's, and ends with it
	now     int64           // microseconds
	outbox  bool            // see Store.KeepOutbox
	sealing *Sealing        // see Store.Seal

	mayBeUnsigned bool // see WithoutSeal
}

func (t *tx) exec(query string, args ...any) (int64, error) {
	r, err := t.conn.ExecContext(t.ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// QueryContext implements querier; the transaction's own context counts.
func (t *tx) QueryContext(_ context.Context, query string, args ...any) (*sql.Rows, error) {
	return t.conn.QueryContext(t.ctx, query, args...)
}

// QueryRowContext implements querier; the transaction's own context counts.
func (t *tx) QueryRowContext(_ context.Context, query string, args ...any) *sql.Row {
	return t.conn.QueryRowContext(t.ctx, query, args...)
}

func (t *tx) row(query string, args ...any) *sql.Row { return t.QueryRowContext(t.ctx, query, args...) }

// job is one write that waits for the writer.
type job struct {
	ctx  context.Context
	do   func(*tx) error
	lazy bool // see inTxLazily
	err  chan error
}

// inTx runs f in a transaction and returns after its commit is durable. Writes that wait at the same time share one
// commit (and one fsync); each is undone alone when it fails. f must be quick and touch nothing but t and its own variables.
// A ctx that ends while the write waits for its turn cancels it; afterwards it runs to its end.
func (s *Store) inTx(ctx context.Context, f func(t *tx) error) error {
	if s.postgres != nil {
		return s.postgres.inTx(ctx, s, f)
	}
	return s.enqueue(&job{ctx: ctx, do: f, err: make(chan error, 1)})
}

// inTxLazily is inTx for what may be lost with the power, and with nothing less, and harms nobody then: it costs no fsync of its own. What a later inTx has committed
// is never safe before it.
func (s *Store) inTxLazily(ctx context.Context, f func(t *tx) error) error {
	if s.postgres != nil {
		return s.postgres.inTx(ctx, s, f)
	}
	return s.enqueue(&job{ctx: ctx, do: f, lazy: true, err: make(chan error, 1)})
}

// enqueue hands a write to the writer and waits for its end.
func (s *Store) enqueue(j *job) error {
	select {
	case <-s.closing:
		return errClosed
	case <-j.ctx.Done():
		return j.ctx.Err()
	case s.jobs <- j:
	}
	select {
	case err := <-j.err:
		return err
	case <-s.closing:
		s.writer.Wait()
		select {
		case err := <-j.err:
			return err
		default:
			return errClosed
		}
	}
}

// inStatement is inTx for an f that runs one statement and no more: to PostgreSQL that is a transaction by itself.
func (s *Store) inStatement(ctx context.Context, f func(t *tx) error) error {
	if s.postgres != nil {
		return s.postgres.inStatement(ctx, s, f)
	}
	return s.inTx(ctx, f)
}

// runWriter commits what waits, batch by batch, until the store is closed.
func (s *Store) runWriter(conn *connection) {
	defer func() { _ = conn.close() }()
	for {
		select {
		case <-s.closing:
			return
		case first := <-s.jobs:
			batch := append(make([]*job, 0, maxBatch), first)
			runtime.Gosched() // who is about to write shall come along
			for len(batch) < maxBatch && len(s.jobs) > 0 {
				batch = append(batch, <-s.jobs)
			}
			s.commitBatch(conn, batch)
		}
	}
}

// commitBatch runs each job behind a savepoint of its own and commits them together.
func (s *Store) commitBatch(conn *connection, batch []*job) {
	t := &tx{conn: conn, dialect: &sqliteDialect, ctx: context.Background(), outbox: s.outbox, sealing: s.sealing} //nolint:forbidigo // a batch is many callers'; none may cancel it
	errs := make([]error, len(batch))
	lost := conn.sync(slices.ContainsFunc(batch, func(j *job) bool { return !j.lazy }))
	if lost == nil {
		_, lost = t.exec(`BEGIN IMMEDIATE`) // immediate: a writer never has to upgrade a lock
	}
	for i := 0; lost == nil && i < len(batch); i++ {
		t.now = micros(s.now())
		errs[i], lost = t.run(batch[i])
	}
	if lost == nil {
		_, lost = t.exec(`COMMIT`)
	}
	if lost != nil { // the engine has given up the whole transaction (disk full, I/O error), or does not answer
		_, _ = t.exec(`ROLLBACK`)
		for i := range errs {
			errs[i] = fault.Wrap(fault.Unavailable, lost, "The database did not take the write.")
		}
	}
	s.memory.wrote()
	for i, j := range batch {
		j.err <- errs[i]
	}
}

// run runs one write behind a savepoint. lost is an error after which the transaction around it cannot be trusted.
func (t *tx) run(j *job) (err, lost error) {
	if err := j.ctx.Err(); err != nil {
		return err, nil
	}
	if _, err := t.exec(`SAVEPOINT one`); err != nil {
		return err, err
	}
	t.mayBeUnsigned = j.ctx.Value(mayBeUnsigned{}) != nil
	if err = guard(t, j.do); err == nil {
		_, err = t.exec(`RELEASE one`)
		return err, err
	}
	if _, lost := t.exec(`ROLLBACK TO one`); lost != nil {
		return err, lost
	}
	_, lost = t.exec(`RELEASE one`)
	return err, lost
}

// guard turns a panic of one write into its error, so that it does not take the writer with it.
func guard(t *tx, do func(*tx) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic in a transaction: %v\n%s", r, debug.Stack())
		}
	}()
	return do(t)
}

// isUnique says whether an error is a violated UNIQUE or PRIMARY KEY constraint.
func isUnique(err error) bool {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
	}
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == pgUnique
}

// notFound turns sql.ErrNoRows into a NotFound with a sentence, and leaves other errors.
func notFound(err error, format string, args ...any) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fault.New(fault.NotFound, format, args...)
	}
	return err
}

func micros(t time.Time) int64 { return t.UnixMicro() }

func fromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }

func fromNullMicros(us sql.NullInt64) *time.Time {
	if !us.Valid {
		return nil
	}
	t := fromMicros(us.Int64)
	return &t
}
