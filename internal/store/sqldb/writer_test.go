package sqldb

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/fault"
)

// openWriter returns a migrated database on SQLite, whichever engine the other tests use.
func openWriter(t *testing.T) *DB {
	t.Helper()
	d, err := Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "writer.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if err := d.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// batch lets writes wait while another one runs, so that they share a commit, and returns their errors in order.
func batch(t *testing.T, d *DB, writes ...func(*Tx) error) []error {
	t.Helper()
	release := occupy(t, d)
	errs := make([]error, len(writes))
	var calls sync.WaitGroup
	for i, f := range writes {
		calls.Go(func() { errs[i] = d.InTx(t.Context(), f) })
		wantQueued(t, d, i+1) // the writes keep their order
	}
	release()
	calls.Wait()
	return errs
}

// occupy begins a write that runs until the returned function is called.
func occupy(t *testing.T, d *DB) (release func()) {
	t.Helper()
	running, released, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- d.InTx(t.Context(), func(*Tx) error {
			close(running)
			<-released
			return nil
		})
	}()
	<-running
	return func() {
		close(released)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func wantQueued(t *testing.T, d *DB, n int) {
	t.Helper()
	eventually.True(t, time.Minute, func() bool { return len(d.sqlite.writes) == n }, "writes wait for the writer")
}

// put returns a write that stores a setting.
func put(name string) func(*Tx) error {
	return func(x *Tx) error {
		_, err := x.Exec(`INSERT INTO setting (name, value) VALUES ($1, 'x')`, name)
		return err
	}
}

// wantSettings verifies the names of all settings.
func wantSettings(t *testing.T, d *DB, want ...string) {
	t.Helper()
	got, err := Collect(t.Context(), d.Read(), ScanString, `SELECT name FROM setting WHERE name <> 'schema_compatible_from' ORDER BY name`)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("settings: %q, %v, want %q", got, err, want)
	}
}

// TestWritesShareACommit verifies that writes which wait at the same time are committed together, in order, each with the
// changes of those before it.
func TestWritesShareACommit(t *testing.T) {
	t.Parallel()
	d := openWriter(t)
	var seen []int
	count := func(x *Tx) error {
		var n int
		err := x.Row(`SELECT COUNT(*) FROM setting WHERE name <> 'schema_compatible_from'`).Scan(&n)
		seen = append(seen, n)
		return err
	}
	before := d.Commits()
	errs := batch(t, d, put("a"), count, put("b"), count)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if got := d.Commits() - before; got != 2 { // that of the write before them, and theirs
		t.Errorf("%d commits, want 2", got)
	}
	if !slices.Equal(seen, []int{1, 2}) {
		t.Errorf("the writes saw %v settings, want 1 and 2", seen)
	}
}

// TestFailedWriteOfABatch verifies that all statements of a failed write are undone, and those of the writes around it kept.
func TestFailedWriteOfABatch(t *testing.T) {
	t.Parallel()
	d := openWriter(t)
	refused := errors.New("refused")
	errs := batch(t, d,
		put("a"),
		func(x *Tx) error { return errors.Join(put("undone 1")(x), put("undone 2")(x), refused) },
		func(x *Tx) error {
			return Steps(func() error { return put("undone 3")(x) }, func() error { return put("a")(x) })
		},
		func(x *Tx) error {
			return Steps(func() error { return put("undone 4")(x) }, func() error { panic("bug") })
		},
		put("b"))
	if errs[0] != nil || errs[4] != nil {
		t.Errorf("writes without an error: %v and %v", errs[0], errs[4])
	}
	if !errors.Is(errs[1], refused) || !IsUnique(errs[2]) || errs[3] == nil || !strings.Contains(errs[3].Error(), "bug") {
		t.Errorf("writes with an error: %v", errs[1:4])
	}
	wantSettings(t, d, "a", "b")
}

// TestRollbackOfABatch runs writes that make SQLite roll back the whole transaction. All writes of the batch fail, and their
// functions for the commit do not run. The next write succeeds.
func TestRollbackOfABatch(t *testing.T) {
	t.Parallel()
	for name, breaks := range map[string]func(*Tx) error{
		"ROLLBACK": func(x *Tx) error { _, err := x.Exec(`ROLLBACK`); return err },
		"constraint that rolls back": func(x *Tx) error {
			_, err := x.Exec(`INSERT OR ROLLBACK INTO setting (name, value) VALUES ('taken', 'x')`)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := openWriter(t)
			if err := d.InTx(t.Context(), put("taken")); err != nil {
				t.Fatal(err)
			}
			committed := false
			first := func(x *Tx) error {
				x.OnCommit(func() { committed = true })
				return put("first")(x)
			}
			for i, err := range batch(t, d, first, breaks, put("last")) {
				if !fault.Is(err, fault.Unavailable) {
					t.Errorf("write %d = %v, want Unavailable", i, err)
				}
			}
			if committed {
				t.Error("the function for the commit of a write that was rolled back ran")
			}
			wantSettings(t, d, "taken")
			if err := d.InTx(t.Context(), put("next")); err != nil {
				t.Errorf("the next write = %v", err)
			}
			wantSettings(t, d, "next", "taken")
		})
	}
}

// TestCanceledWriteDoesNotRun verifies that a context that ends while a write waits cancels it.
func TestCanceledWriteDoesNotRun(t *testing.T) {
	t.Parallel()
	d := openWriter(t)
	release := occupy(t, d)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.InTx(ctx, put("canceled")) }()
	wantQueued(t, d, 1)
	cancel()
	release()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the write = %v, want context.Canceled", err)
	}
	wantSettings(t, d)
}

// TestRunningWriteIsNotCanceled verifies that a write is committed although its context ends while it runs.
func TestRunningWriteIsNotCanceled(t *testing.T) {
	t.Parallel()
	d := openWriter(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := d.InTx(ctx, func(x *Tx) error {
		cancel()
		return put("kept")(x)
	})
	if err != nil {
		t.Errorf("InTx = %v", err)
	}
	wantSettings(t, d, "kept")
}

// TestCloseWithWaitingWrites verifies that Close waits for the running write, and that writes which wait then either are
// stored or fail.
func TestCloseWithWaitingWrites(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "closed.db")
	d, err := Open(t.Context(), "sqlite:"+path)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	release := occupy(t, d)
	names := []string{"a", "b", "c"}
	errs := make([]error, len(names))
	var calls sync.WaitGroup
	for i, name := range names {
		calls.Go(func() { errs[i] = d.InTx(t.Context(), put(name)) })
	}
	wantQueued(t, d, len(names))
	closed := make(chan error, 1)
	go func() { closed <- d.Close() }()
	<-d.sqlite.closing
	release()
	calls.Wait()
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	var stored []string
	for i, err := range errs {
		if err == nil {
			stored = append(stored, names[i])
		} else if !fault.Is(err, fault.Unavailable) {
			t.Errorf("a write that waited for a closed database = %v, want Unavailable", err)
		}
	}
	again, err := Open(t.Context(), "sqlite:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	wantSettings(t, again, stored...)
}

// TestWriterKeepsStatements verifies that the writer prepares a text once, and that texts beyond the bound, long ones and
// invalid ones work without being kept.
func TestWriterKeepsStatements(t *testing.T) {
	t.Parallel()
	d := openWriter(t)
	err := d.InTx(t.Context(), func(x *Tx) error {
		c := x.conn.(*connection) //nolint:forcetypeassert // SQLite's connection
		kept := func() int { return len(c.stmts) }
		query := func(text string, want int) {
			t.Helper()
			var got int
			if err := x.Row(text).Scan(&got); err != nil || got != want {
				t.Errorf("%.40s: %d, %v, want %d", text, got, err, want)
			}
		}
		before := kept()
		for range 3 {
			query(`SELECT 1`, 1)
		}
		if got := kept() - before; got != 1 {
			t.Errorf("%d statements were kept for one text", got)
		}
		query(`SELECT 2 /*`+strings.Repeat("x", preparedText)+`*/`, 2)
		if _, err := x.Exec(`SELECT FROM nothing`); err == nil {
			t.Error("an invalid text is no error")
		}
		if _, err := Collect(t.Context(), x, ScanInt, `SELECT FROM nothing`); err == nil {
			t.Error("an invalid text is no error of a query")
		}
		if err := x.Row(`SELECT FROM nothing`).Scan(new(int)); err == nil {
			t.Error("an invalid text is no error of a row")
		}
		if got := kept() - before; got != 1 {
			t.Errorf("%d statements are kept, want 1: neither long nor invalid ones", got)
		}
		for i := range writerStatements + 10 {
			query(fmt.Sprintf(`SELECT %d`, 1000+i), 1000+i)
		}
		if got := kept(); got != writerStatements {
			t.Errorf("%d statements are kept, want %d", got, writerStatements)
		}
		query(`SELECT 1`, 1)
		_, err := x.Exec(`INSERT INTO setting (name, value) VALUES ('unprepared', 'x')`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	wantSettings(t, d, "unprepared")
}
