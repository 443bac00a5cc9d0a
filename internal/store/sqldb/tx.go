package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
)

// Querier reads: the pool of connections, or a transaction that sees its own writes.
type Querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// runner runs statements: the writer's connection to SQLite, or a transaction on PostgreSQL.
type runner interface {
	Querier
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Tx is a running transaction. On SQLite its statements cannot be canceled one by one: an interrupted statement would roll
// back the whole batch, with the writes of other callers.
type Tx struct {
	Ctx     context.Context //nolint:containedctx // of the transaction, and ends with it
	Now     int64           // the time of all its writes, in microseconds since 1970
	Dialect *Dialect

	conn     runner
	onCommit []func()
	deferred []deferred
}

// deferred is a function that Defer registered.
type deferred struct {
	name string
	f    func() error
}

// OnCommit registers f to run after the transaction is committed, before its caller continues. f does not run if the
// transaction, or this attempt of it, is rolled back.
func (t *Tx) OnCommit(f func()) { t.onCommit = append(t.onCommit, f) }

// Defer registers f to run after the function of the transaction has succeeded, before the commit; its error rolls the
// transaction back. Deferred functions run in the order of their names. So transactions that lock these names then, after all
// their other locks, cannot deadlock with each other.
func (t *Tx) Defer(name string, f func() error) { t.deferred = append(t.deferred, deferred{name, f}) }

// run runs f and then the functions that it deferred.
func (t *Tx) run(f func(*Tx) error) error {
	t.onCommit, t.deferred = nil, nil
	return guard(t, func(t *Tx) error {
		if err := f(t); err != nil {
			return err
		}
		slices.SortStableFunc(t.deferred, func(a, b deferred) int { return strings.Compare(a.name, b.name) })
		for _, d := range t.deferred {
			if err := d.f(); err != nil {
				return err
			}
		}
		return nil
	})
}

// committed runs the functions that OnCommit registered.
func (t *Tx) committed() {
	for _, f := range t.onCommit {
		f()
	}
}

// Exec runs a statement and returns the number of rows that it changed.
func (t *Tx) Exec(query string, args ...any) (int64, error) {
	r, err := t.conn.ExecContext(t.Ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// QueryContext implements Querier. The transaction's own context counts.
func (t *Tx) QueryContext(_ context.Context, query string, args ...any) (*sql.Rows, error) {
	return t.conn.QueryContext(t.Ctx, query, args...)
}

// QueryRowContext implements Querier. The transaction's own context counts.
func (t *Tx) QueryRowContext(_ context.Context, query string, args ...any) *sql.Row {
	return t.conn.QueryRowContext(t.Ctx, query, args...)
}

// Row runs a query that returns at most one row.
func (t *Tx) Row(query string, args ...any) *sql.Row { return t.QueryRowContext(t.Ctx, query, args...) }

// guard turns a panic of f into its error, so that it does not end the writer.
func guard(t *Tx, f func(*Tx) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic in a transaction: %v\n%s", r, debug.Stack())
		}
	}()
	return f(t)
}

// Steps calls functions in order until one fails, and returns its error.
func Steps(all ...func() error) error {
	for _, f := range all {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// contentLock is the lock between transactions that add references to content, which share it, and sweeps, which remove
// unreferenced content.
const contentLock = "countersign:references"

// LockRow locks a row of a table until the transaction ends. A transaction that reads a row and writes it back with changes
// calls it first; otherwise it could undo a change that another transaction commits in between. A missing row is no error.
func (t *Tx) LockRow(table, id string) error {
	if t.Dialect.ForUpdate == "" {
		return nil
	}
	_, err := t.Exec(`SELECT 1 FROM `+table+` WHERE id = $1`+t.Dialect.ForUpdate, id)
	return err
}

// LockNamed locks a name until the transaction ends.
func (t *Tx) LockNamed(name string) error { return t.runLock(t.Dialect.lock, name) }

// LockContentShared is called by transactions that add references to content. No sweep runs until the transaction ends.
func (t *Tx) LockContentShared() error { return t.runLock(t.Dialect.lockShared, contentLock) }

// LockContent is called by sweeps. It waits for the transactions that hold LockContentShared, and no other begins until this
// one ends.
func (t *Tx) LockContent() error { return t.runLock(t.Dialect.lock, contentLock) }

func (t *Tx) runLock(query, name string) error {
	if query == "" {
		return nil
	}
	_, err := t.Exec(query, name)
	return err
}
