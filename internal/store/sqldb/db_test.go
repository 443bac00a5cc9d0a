package sqldb_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

func TestOneBadWriteSpoilsNoOther(t *testing.T) {
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
	if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM setting`).Scan(&n); err != nil || n != 30 {
		t.Errorf("%d rows, %v, want 30", n, err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.DB.PutSetting(canceled, "late", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a write of a gone caller: %v", err)
	}
}

// What must survive a power cut waits for the disk, whatever was written beside it; what need not does not.
func TestWhatWaitsForTheDisk(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	if s.DB.IsPostgres() {
		t.Skip("PostgreSQL's commits all wait")
	}
	const normal, full = 1, 2 // https://sqlite.org/pragma.html#pragma_synchronous
	for i, c := range []struct {
		in   func(context.Context, func(*sqldb.Tx) error) error
		want int
	}{{s.DB.InTx, full}, {s.DB.InTxNoSync, normal}, {s.DB.InTxNoSync, normal}, {s.DB.InTx, full}, {s.DB.InTxNoSync, normal}} {
		var level int
		if err := c.in(t.Context(), func(x *sqldb.Tx) error { return x.Row(`PRAGMA synchronous`).Scan(&level) }); err != nil || level != c.want {
			t.Errorf("write %d: level %d, %v, want %d", i, level, err, c.want)
		}
	}
	var wg sync.WaitGroup
	for i := range 200 {
		in := s.DB.InTxNoSync
		if i%2 == 0 {
			in = s.DB.InTx
		}
		wg.Go(func() {
			var level int
			if err := in(t.Context(), func(x *sqldb.Tx) error { return x.Row(`PRAGMA synchronous`).Scan(&level) }); err != nil || i%2 == 0 && level != full {
				t.Errorf("write %d: level %d, %v", i, level, err)
			}
		})
	}
	wg.Wait()
}

func TestOpenRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "mysql://x", "sqlite:"} {
		if s, err := store.Open(t.Context(), url); err == nil {
			_ = s.DB.Close()
			t.Errorf("Open(%q) succeeded", url)
		}
	}
	s := storetest.Open(t)
	err := s.DB.InTx(t.Context(), func(x *sqldb.Tx) error {
		_, err := x.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (99999, TRUE)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DB.Migrate(t.Context()); !fault.Is(err, fault.Conflict) {
		t.Errorf("Migrate on a newer schema = %v, want Conflict", err)
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
