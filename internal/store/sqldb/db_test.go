package sqldb_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestFailedWritesAffectNoOther runs writes at once of which some fail and some panic. The others are stored.
func TestFailedWritesAffectNoOther(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			err := s.DB.InTx(t.Context(), func(x *sqldb.Tx) error {
				if _, err := x.Exec(`INSERT INTO setting (name, value) VALUES ($1, 'x')`, fmt.Sprint(i)); err != nil {
					return err
				}
				switch i % 5 {
				case 0:
					return errors.New("refused")
				case 1:
					panic("bug")
				}
				return nil
			})
			if bad := i%5 < 2; bad != (err != nil) {
				t.Errorf("write %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	var n int
	if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM setting WHERE name <> 'schema_compatible_from'`).Scan(&n); err != nil || n != 30 {
		t.Errorf("%d rows, %v, want 30", n, err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.DB.PutSetting(canceled, "late", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a write with a canceled context: %v, want context.Canceled", err)
	}
}

// TestDurability proves that InTx waits for the disk whatever is written beside it, and that InTxNoSync alone does not.
func TestDurability(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	if s.DB.IsPostgres() {
		t.Skip("PostgreSQL waits for every commit")
	}
	const normal, full = 1, 2 // https://sqlite.org/pragma.html#pragma_synchronous
	level := func(in func(context.Context, func(*sqldb.Tx) error) error) (level int, err error) {
		err = in(t.Context(), func(x *sqldb.Tx) error { return x.Row(`PRAGMA synchronous`).Scan(&level) })
		return level, err
	}
	steps := []struct {
		in   func(context.Context, func(*sqldb.Tx) error) error
		want int
	}{
		{in: s.DB.InTx, want: full}, {in: s.DB.InTxNoSync, want: normal}, {in: s.DB.InTxNoSync, want: normal},
		{in: s.DB.InTx, want: full}, {in: s.DB.InTxNoSync, want: normal},
	}
	for i, step := range steps {
		if got, err := level(step.in); err != nil || got != step.want {
			t.Errorf("write %d: level %d, %v, want %d", i, got, err, step.want)
		}
	}
	var wg sync.WaitGroup
	for i := range 200 {
		in := s.DB.InTxNoSync
		if i%2 == 0 {
			in = s.DB.InTx
		}
		wg.Go(func() {
			if got, err := level(in); err != nil || i%2 == 0 && got != full {
				t.Errorf("write %d: level %d, %v", i, got, err)
			}
		})
	}
	wg.Wait()
}

func TestOpenRejectsUnknownURLs(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "mysql://x", "sqlite:"} {
		if d, err := sqldb.Open(t.Context(), url); !fault.Is(err, fault.Invalid) {
			t.Errorf("Open(%q) = %v, want Invalid", url, err)
			if err == nil {
				_ = d.Close()
			}
		}
	}
}

// TestCloseEndsTheDatabase proves that writes after Close fail, and that Close may be called twice.
func TestCloseEndsTheDatabase(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	if err := d.PutSetting(t.Context(), "a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.PutSetting(t.Context(), "b", []byte("1")); err == nil {
		t.Error("a write after Close succeeded")
	}
	if err := d.Ping(t.Context()); !fault.IsOutage(err, fault.Database) {
		t.Errorf("Ping after Close = %v, want an outage of the database", err)
	}
}

func TestCommitsCountsWrites(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	before := d.Commits()
	if err := d.PutSetting(t.Context(), "a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Setting(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	want := before + 1
	if d.IsPostgres() {
		want = 0 // other processes commit too
	}
	if got := d.Commits(); got != want {
		t.Errorf("Commits = %d after one write, want %d", got, want)
	}
}

func TestReadsCountsQueries(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	before := d.Reads()
	if _, err := d.Setting(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := sqldb.Collect(t.Context(), d.ReadComposed(), sqldb.ScanString, `SELECT name FROM setting`); err != nil {
		t.Fatal(err)
	}
	if got := d.Reads() - before; got != 2 {
		t.Errorf("%d reads, want 2", got)
	}
}

// TestTransactionsSeeTheClock proves that all writes of a transaction carry one time, that of the database's clock.
func TestTransactionsSeeTheClock(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	now := time.Date(2030, 1, 2, 3, 4, 5, 6000, time.UTC)
	d.SetClock(func() time.Time { return now })
	got, err := sqldb.InTx(t.Context(), d, func(x *sqldb.Tx) (int64, error) { return x.Now, nil })
	if err != nil || !sqldb.FromMicros(got).Equal(now) || !d.Now().Equal(now) {
		t.Errorf("the transaction's time is %v, %v, want %v", sqldb.FromMicros(got), err, now)
	}
}

func TestDataDirectoryHasOneOwner(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := sqldb.LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sqldb.LockDir(dir); !fault.Is(err, fault.Conflict) {
		t.Errorf("second LockDir = %v, want Conflict", err)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	second, err := sqldb.LockDir(dir)
	if err != nil {
		t.Fatalf("LockDir after Release = %v", err)
	}
	_ = second.Release()
}
