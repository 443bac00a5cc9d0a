package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"github.com/countersign/countersign/internal/fault"
)

const (
	// readConns is the number of connections that read at once. SQLite's readers never wait for the writer (WAL).
	readConns = 8
	// maxBatch is the number of waiting writes that share one commit.
	maxBatch = 64
	// writerStatements is the number of statements that the writer keeps prepared. The stores have fewer texts.
	writerStatements = 1024
)

var errClosed = fault.New(fault.Unavailable, "The database is closed.")

// writer is the only goroutine that writes to a SQLite file. Writes that wait at the same time run in one transaction, each
// behind a savepoint, and share its fsync.
type writer struct {
	path string
	db   *sql.DB // has one connection, conn's
	conn *connection
	d    *DB

	writes  chan *write
	closing chan struct{}
	done    sync.WaitGroup
}

// write is one transaction that waits for the writer.
type write struct {
	ctx    context.Context
	do     func(*Tx) error
	noSync bool
	err    chan error
}

// openFile opens a SQLite database and starts its writer.
func (d *DB) openFile(ctx context.Context, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("database directory: %w", err)
	}
	if err := registerRegexp(); err != nil {
		return fmt.Errorf("register regexp: %w", err)
	}
	// The file holds password hashes and the token key. SQLite gives its other files the same permissions.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	db, err := openSQLite(path, 1)
	if err != nil {
		return err
	}
	read, err := openSQLite(path, readConns)
	if err != nil {
		return errors.Join(err, db.Close())
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return errors.Join(fmt.Errorf("open database: %w", err), read.Close(), db.Close())
	}
	d.read = &countedPool{pool: newPrepared(read)}
	d.sqlite = &writer{
		path: path, db: db, conn: &connection{conn: conn, stmts: map[string]*sql.Stmt{}}, d: d,
		writes: make(chan *write, maxBatch), closing: make(chan struct{}),
	}
	d.sqlite.done.Go(d.sqlite.loop)
	return nil
}

// stop ends the writer after its current batch.
func (w *writer) stop() {
	close(w.closing)
	w.done.Wait()
}

// run hands a write to the writer and waits for its end. A context that ends before the write begins cancels it.
func (w *writer) run(x *write) error {
	select {
	case <-w.closing:
		return errClosed
	case <-x.ctx.Done():
		return x.ctx.Err()
	case w.writes <- x:
	}
	select {
	case err := <-x.err:
		return err
	case <-w.closing:
		w.done.Wait()
		select {
		case err := <-x.err:
			return err
		default:
			return errClosed
		}
	}
}

// loop commits waiting writes batch by batch until the database is closed.
func (w *writer) loop() {
	defer func() { _ = w.conn.close() }()
	for {
		select {
		case <-w.closing:
			return
		case first := <-w.writes:
			batch := append(make([]*write, 0, maxBatch), first)
			runtime.Gosched() // lets callers that are about to write join the batch
			for len(batch) < maxBatch && len(w.writes) > 0 {
				batch = append(batch, <-w.writes)
			}
			w.commit(batch)
		}
	}
}

// commit runs each write behind a savepoint of its own and commits them together.
func (w *writer) commit(batch []*write) {
	t := &Tx{conn: w.conn, Dialect: &sqliteDialect, Ctx: context.Background()} //nolint:forbidigo // a batch belongs to many callers; none may cancel it
	errs := make([]error, len(batch))
	lost := w.conn.setSync(slices.ContainsFunc(batch, func(x *write) bool { return !x.noSync }))
	if lost == nil {
		_, lost = t.Exec(`BEGIN IMMEDIATE`) // immediate: a writer never has to upgrade a lock
	}
	for i := 0; lost == nil && i < len(batch); i++ {
		t.Now = Micros(w.d.now())
		errs[i], lost = runInSavepoint(t, batch[i])
	}
	if lost == nil {
		_, lost = t.Exec(`COMMIT`)
	}
	if lost != nil { // the engine has given up the whole transaction (disk full, I/O error) or does not answer
		_, _ = t.Exec(`ROLLBACK`)
		for i := range errs {
			errs[i] = fault.Wrap(fault.Unavailable, lost, "The database did not take the write.")
		}
	}
	w.d.commits.Add(1)
	for i, x := range batch {
		x.err <- errs[i]
	}
}

// runInSavepoint runs one write behind a savepoint. lost is an error after which the surrounding transaction cannot be trusted.
func runInSavepoint(t *Tx, x *write) (err, lost error) {
	if err := x.ctx.Err(); err != nil {
		return err, nil
	}
	if _, err := t.Exec(`SAVEPOINT one`); err != nil {
		return err, err
	}
	if err = guard(t, x.do); err == nil {
		_, err = t.Exec(`RELEASE one`)
		return err, err
	}
	if _, lost := t.Exec(`ROLLBACK TO one`); lost != nil {
		return err, lost
	}
	_, lost = t.Exec(`RELEASE one`)
	return err, lost
}

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
