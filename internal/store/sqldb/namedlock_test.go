package sqldb_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestWithLockExcludesOthers takes a lock from several goroutines and, on PostgreSQL, over two connections to one database as two
// processes would. One holder runs at a time.
func TestWithLockExcludesOthers(t *testing.T) {
	t.Parallel()
	databases := []*sqldb.DB{storetest.Open(t).DB}
	if url := pgtest.URL(t); url != "" {
		databases = nil
		for range 2 {
			d, err := sqldb.Open(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = d.Close() })
			databases = append(databases, d)
		}
	}
	var holders, total atomic.Int32
	var calls sync.WaitGroup
	for i := range 6 {
		calls.Go(func() {
			err := databases[i%len(databases)].WithLock(t.Context(), sqldb.OutboxWrites, func(check func() error) error {
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d goroutines hold the lock", n)
				}
				defer holders.Add(-1)
				total.Add(1)
				return check()
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if total.Load() != 6 {
		t.Errorf("%d calls ran, want 6", total.Load())
	}
}

func TestWithLockReturnsTheError(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	failed := errors.New("failed")
	for range 2 { // the first call releases the lock
		if err := d.WithLock(t.Context(), sqldb.Comparison, func(func() error) error { return failed }); !errors.Is(err, failed) {
			t.Errorf("WithLock = %v, want the error of f", err)
		}
	}
	if !d.IsPostgres() {
		return
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.WithLock(canceled, sqldb.Comparison, func(func() error) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("WithLock with a canceled context = %v", err)
	}
}
