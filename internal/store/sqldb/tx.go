package sqldb

import (
	"context"
	"database/sql"
	"fmt"
	"runtime/debug"
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

	conn runner
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

// InTx runs f in a transaction and returns its result after the commit is durable.
//
// f must be quick, touch nothing but t, and return its result instead of setting variables of its caller: on PostgreSQL it
// runs again after a deadlock. The result is the zero value when f or the commit fails. A ctx that ends before the
// transaction begins cancels it.
func InTx[T any](ctx context.Context, d *DB, f func(*Tx) (T, error)) (T, error) {
	return result(func(run func(*Tx) error) error { return d.InTx(ctx, run) }, f)
}

// InTxNoSync is InTx without waiting for the disk. It is for rows that may be lost on power failure, and on nothing less. A
// later InTx is never durable before it.
func InTxNoSync[T any](ctx context.Context, d *DB, f func(*Tx) (T, error)) (T, error) {
	return result(func(run func(*Tx) error) error { return d.InTxNoSync(ctx, run) }, f)
}

// InStatement is InTx for an f that runs exactly one statement. On PostgreSQL a statement is a transaction by itself.
func InStatement[T any](ctx context.Context, d *DB, f func(*Tx) (T, error)) (T, error) {
	return result(func(run func(*Tx) error) error { return d.InStatement(ctx, run) }, f)
}

// result returns the value of the last attempt of f, which run commits.
func result[T any](run func(func(*Tx) error) error, f func(*Tx) (T, error)) (T, error) {
	var last, none T
	err := run(func(t *Tx) (err error) {
		last, err = f(t)
		return err
	})
	if err != nil {
		return none, err
	}
	return last, nil
}

// InTx is the function InTx for an f without a result.
func (d *DB) InTx(ctx context.Context, f func(*Tx) error) error {
	if d.postgres != nil {
		return d.postgres.inTx(ctx, d, f)
	}
	return d.sqlite.run(&write{ctx: ctx, do: f, err: make(chan error, 1)})
}

// InTxNoSync is the function InTxNoSync for an f without a result.
func (d *DB) InTxNoSync(ctx context.Context, f func(*Tx) error) error {
	if d.postgres != nil {
		return d.postgres.inTx(ctx, d, f)
	}
	return d.sqlite.run(&write{ctx: ctx, do: f, noSync: true, err: make(chan error, 1)})
}

// InStatement is the function InStatement for an f without a result.
func (d *DB) InStatement(ctx context.Context, f func(*Tx) error) error {
	if d.postgres != nil {
		return d.postgres.inStatement(ctx, d, f)
	}
	return d.InTx(ctx, f)
}

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
