package sqldb

import (
	"context"
	"database/sql"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/internal/fault"
)

// maxBatch is the number of waiting writes that share one commit.
const maxBatch = 64

var errClosed = fault.New(fault.Unavailable, "The database is closed.")

// writer is the only goroutine that writes to a SQLite file. Writes that wait at the same time run in one transaction, each
// behind a savepoint, and share its fsync.
type writer struct {
	path string
	db   *sql.DB // has one connection, conn's
	conn *connection

	now     func() time.Time
	commits atomic.Uint64

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

	onCommit []func() // set before err is sent
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
		return x.finish(err)
	case <-w.closing:
		w.done.Wait()
		select {
		case err := <-x.err:
			return x.finish(err)
		default:
			return errClosed
		}
	}
}

// finish runs the functions that wait for the commit, in the goroutine of the caller.
func (x *write) finish(err error) error {
	if err == nil {
		for _, f := range x.onCommit {
			f()
		}
	}
	return err
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
		t.Now = Micros(w.now())
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
	w.commits.Add(1)
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
	batch := t.Ctx
	t.Ctx = context.WithoutCancel(x.ctx) // with its values, such as the actor
	defer func() { t.Ctx = batch }()
	if err = t.run(x.do); err == nil {
		x.onCommit = t.onCommit
		_, err = t.Exec(`RELEASE one`)
		return err, err
	}
	if _, lost := t.Exec(`ROLLBACK TO one`); lost != nil {
		return err, lost
	}
	_, lost = t.Exec(`RELEASE one`)
	return err, lost
}
