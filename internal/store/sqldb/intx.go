package sqldb

import "context"

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
		return d.postgres.inTx(ctx, f)
	}
	return d.sqlite.run(&write{ctx: ctx, do: f, err: make(chan error, 1)})
}

// InTxNoSync is the function InTxNoSync for an f without a result.
func (d *DB) InTxNoSync(ctx context.Context, f func(*Tx) error) error {
	if d.postgres != nil {
		return d.postgres.inTx(ctx, f)
	}
	return d.sqlite.run(&write{ctx: ctx, do: f, noSync: true, err: make(chan error, 1)})
}

// InStatement is the function InStatement for an f without a result.
func (d *DB) InStatement(ctx context.Context, f func(*Tx) error) error {
	if d.postgres != nil {
		return d.postgres.inStatement(ctx, f)
	}
	return d.InTx(ctx, f)
}
