package sqldb_test

import (
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestLockRow increments a column from several transactions at once. LockRow keeps each from reading a value that another
// one is about to change.
func TestLockRow(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	storetest.Exec(t, s, `INSERT INTO repository (id, type, name, latest_version, created, updated) VALUES ('r', 'container', 'r', 0, 0, 0)`)
	const increments = 20
	var calls sync.WaitGroup
	for range increments {
		calls.Go(func() {
			err := s.DB.InTx(t.Context(), func(x *sqldb.Tx) error {
				if err := x.LockRow("repository", "r"); err != nil {
					return err
				}
				var n int64
				if err := x.Row(`SELECT latest_version FROM repository WHERE id = 'r'`).Scan(&n); err != nil {
					return err
				}
				_, err := x.Exec(`UPDATE repository SET latest_version = $1 WHERE id = 'r'`, n+1)
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	var n int64
	if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT latest_version FROM repository`).Scan(&n); err != nil || n != increments {
		t.Errorf("the column is %d, %v, want %d", n, err, increments)
	}
}

func TestLockRowOfMissingRow(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	if err := d.InTx(t.Context(), func(x *sqldb.Tx) error { return x.LockRow("repository", "missing") }); err != nil {
		t.Errorf("LockRow of a missing row = %v", err)
	}
}

// onPostgres returns a new database on PostgreSQL.
func onPostgres(t *testing.T) *sqldb.DB {
	t.Helper()
	d := storetest.Open(t).DB
	if !d.IsPostgres() {
		t.Skip("SQLite runs one transaction at a time and needs no locks")
	}
	return d
}

// holder is a transaction that holds a lock until release is called.
type holder struct {
	release func()
	ended   chan error
}

// hold begins a transaction that takes a lock. It returns when the transaction has it, or, with wait, at once.
func hold(t *testing.T, d *sqldb.DB, lock func(*sqldb.Tx) error, wait bool) *holder {
	t.Helper()
	locked, released := make(chan struct{}), make(chan struct{})
	h := &holder{release: sync.OnceFunc(func() { close(released) }), ended: make(chan error, 1)}
	t.Cleanup(h.release)
	go func() {
		h.ended <- d.InTx(t.Context(), func(x *sqldb.Tx) error {
			if err := lock(x); err != nil {
				return err
			}
			close(locked)
			<-released
			return nil
		})
	}()
	if wait {
		return h
	}
	select {
	case <-locked:
	case err := <-h.ended:
		t.Fatalf("the transaction ended with %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the transaction waits for the lock")
	}
	return h
}

// wantWaiting waits until so many transactions of the database wait for a lock.
func wantWaiting(t *testing.T, d *sqldb.DB, want int) {
	t.Helper()
	eventually.True(t, time.Minute, func() bool {
		var n int
		err := d.Read().QueryRowContext(t.Context(), `
			SELECT COUNT(*) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
			 WHERE NOT l.granted AND a.datname = current_database()`).Scan(&n)
		return err == nil && n == want
	}, "transactions wait for a lock")
}

// wantEnd waits for the end of a transaction.
func (h *holder) wantEnd(t *testing.T) {
	t.Helper()
	h.release()
	select {
	case err := <-h.ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the transaction does not end")
	}
}

// TestContentLocks verifies that transactions share LockContentShared, and that LockContent waits for them and keeps others
// out.
func TestContentLocks(t *testing.T) {
	t.Parallel()
	d := onPostgres(t)
	first := hold(t, d, (*sqldb.Tx).LockContentShared, false)
	second := hold(t, d, (*sqldb.Tx).LockContentShared, false)
	sweep := hold(t, d, (*sqldb.Tx).LockContent, true)
	wantWaiting(t, d, 1)
	first.wantEnd(t)
	wantWaiting(t, d, 1)
	second.wantEnd(t)
	wantWaiting(t, d, 0)
	push := hold(t, d, (*sqldb.Tx).LockContentShared, true)
	wantWaiting(t, d, 1)
	sweep.wantEnd(t)
	push.wantEnd(t)
}

// TestNamedLocks verifies that a name is locked until its transaction ends, and that other names are free.
func TestNamedLocks(t *testing.T) {
	t.Parallel()
	d := onPostgres(t)
	lock := func(name string) func(*sqldb.Tx) error { return func(x *sqldb.Tx) error { return x.LockNamed(name) } }
	first := hold(t, d, lock("a"), false)
	other := hold(t, d, lock("b"), false)
	second := hold(t, d, lock("a"), true)
	wantWaiting(t, d, 1)
	other.wantEnd(t)
	wantWaiting(t, d, 1)
	first.wantEnd(t)
	second.wantEnd(t)
}

// TestRowLocks verifies that LockRow locks its row alone.
func TestRowLocks(t *testing.T) {
	t.Parallel()
	d := onPostgres(t)
	err := d.InTx(t.Context(), func(x *sqldb.Tx) error {
		_, err := x.Exec(`INSERT INTO namespace (id, name, created, updated) VALUES ('a', 'a', 0, 0), ('b', 'b', 0, 0)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	lock := func(id string) func(*sqldb.Tx) error {
		return func(x *sqldb.Tx) error { return x.LockRow("namespace", id) }
	}
	first := hold(t, d, lock("a"), false)
	hold(t, d, lock("b"), false).wantEnd(t)
	second := hold(t, d, lock("a"), true)
	wantWaiting(t, d, 1)
	first.wantEnd(t)
	second.wantEnd(t)
}
