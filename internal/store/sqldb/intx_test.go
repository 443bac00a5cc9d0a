package sqldb_test

import (
	"errors"
	"testing"

	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestOnCommit proves that registered functions run once, after a commit only.
func TestOnCommit(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	refused := errors.New("refused")
	for name, run := range map[string]func(func(*sqldb.Tx) error) error{
		"InTx":        func(f func(*sqldb.Tx) error) error { return d.InTx(t.Context(), f) },
		"InTxNoSync":  func(f func(*sqldb.Tx) error) error { return d.InTxNoSync(t.Context(), f) },
		"InStatement": func(f func(*sqldb.Tx) error) error { return d.InStatement(t.Context(), f) },
	} {
		for _, want := range []error{nil, refused} {
			calls := 0
			err := run(func(x *sqldb.Tx) error {
				x.OnCommit(func() { calls++ })
				if _, err := x.Exec(`INSERT INTO setting (name, value) VALUES ($1, 'x') ON CONFLICT (name) DO NOTHING`, name); err != nil {
					return err
				}
				if calls != 0 {
					t.Errorf("%s: the function ran before the commit", name)
				}
				return want
			})
			if !errors.Is(err, want) || (calls == 1) != (want == nil) || calls > 1 {
				t.Errorf("%s: %v and %d calls, want %v", name, err, calls, want)
			}
		}
	}
}

// TestRetriedAttemptLeaksNothing makes two transactions on PostgreSQL lock each other's row, so that one runs again. The result
// and the functions of its first attempt are dropped.
func TestRetriedAttemptLeaksNothing(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	if !d.IsPostgres() {
		t.Skip("SQLite runs one transaction at a time")
	}
	for _, name := range []string{"a", "b"} {
		if err := d.PutSetting(t.Context(), name, []byte("0")); err != nil {
			t.Fatal(err)
		}
	}
	const update = `UPDATE setting SET value = 'x' WHERE name = $1`
	bothHold := make(chan struct{}, 2)
	type outcome struct {
		result, attempts int
		committed        []int
		err              error
	}
	run := func(first, second string, other chan outcome) {
		var o outcome
		o.result, o.err = sqldb.InTx(t.Context(), d, func(x *sqldb.Tx) (int, error) {
			o.attempts++
			attempt := o.attempts
			x.OnCommit(func() { o.committed = append(o.committed, attempt) })
			if _, err := x.Exec(update, first); err != nil {
				return attempt, err
			}
			if attempt == 1 {
				bothHold <- struct{}{}
				for len(bothHold) < 2 {
					if err := x.Row(`SELECT 1`).Scan(new(int)); err != nil {
						return attempt, err
					}
				}
			}
			_, err := x.Exec(update, second)
			return attempt, err
		})
		other <- o
	}
	done := make(chan outcome, 2)
	go run("a", "b", done)
	go run("b", "a", done)
	one, two := <-done, <-done
	if one.err != nil || two.err != nil || one.attempts+two.attempts < 3 {
		t.Fatalf("outcomes %+v and %+v, want one that ran again", one, two)
	}
	for _, o := range []outcome{one, two} {
		if o.result != o.attempts || len(o.committed) != 1 || o.committed[0] != o.attempts {
			t.Errorf("outcome %+v, want that of the last attempt", o)
		}
	}
}

// TestDefer proves that deferred functions run before the commit, in the order of their names, and that their error rolls the
// transaction back.
func TestDefer(t *testing.T) {
	t.Parallel()
	d := storetest.Open(t).DB
	refused := errors.New("refused")
	for _, want := range []error{nil, refused} {
		var order string
		err := d.InTx(t.Context(), func(x *sqldb.Tx) error {
			order = ""
			for _, name := range []string{"b", "a", "b"} {
				x.Defer(name, func() error {
					order += name
					_, err := x.Exec(`INSERT INTO setting (name, value) VALUES ($1, 'x')`, "deferred "+order)
					return err
				})
			}
			x.Defer("c", func() error { return want })
			return nil
		})
		if !errors.Is(err, want) || order != "abb" {
			t.Errorf("%v after %s, want %v after abb", err, order, want)
		}
		kept, err := d.Setting(t.Context(), "deferred abb")
		if err != nil || (kept != nil) != (want == nil) {
			t.Errorf("after %v: %q, %v", want, kept, err)
		}
		if err := d.InTx(t.Context(), func(x *sqldb.Tx) error {
			_, err := x.Exec(`DELETE FROM setting WHERE name LIKE 'deferred %'`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	err := d.InTx(t.Context(), func(x *sqldb.Tx) error {
		x.Defer("a", func() error { t.Error("a function of a failed transaction ran"); return nil })
		return refused
	})
	if !errors.Is(err, refused) {
		t.Error(err)
	}
}
