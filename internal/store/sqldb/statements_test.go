package sqldb

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
)

// TestEvictedStatementsFinish runs many texts through a cache of two, at once, and reads the rows only after the statements were displaced: each call gets its
// answer, and in the end every displaced statement is closed.
func TestEvictedStatementsFinish(t *testing.T) {
	t.Parallel()
	db, err := openSQLite(filepath.Join(t.TempDir(), "few.db"), 8)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	few := newStatements(db, 2)
	defer few.close()
	var calls sync.WaitGroup
	for worker := range 6 {
		calls.Go(func() {
			for i := range 200 {
				n := (worker + i) % 7
				if err := twoRows(t.Context(), few, fmt.Sprintf(`SELECT %d UNION ALL SELECT %d`, n, n), n); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	calls.Wait()
	few.mu.Lock()
	defer few.mu.Unlock()
	if len(few.evicted) != 0 || few.kept.Len() > 2 {
		t.Errorf("%d displaced statements are open, %d are kept", len(few.evicted), few.kept.Len())
	}
	for _, k := range few.kept.Values() {
		if k.users != 0 || k.gone {
			t.Errorf("a kept statement has %d users, gone: %t", k.users, k.gone)
		}
	}
}

func twoRows(ctx context.Context, q Querier, query string, want int) error {
	rows, err := q.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	n := 0
	for ; rows.Next(); n++ {
		var got, inner int
		if err := rows.Scan(&got); err != nil {
			return err
		}
		if err := q.QueryRowContext(ctx, fmt.Sprintf(`SELECT %d`, 1000+want+n)).Scan(&inner); err != nil { // displaces others meanwhile
			return err
		}
		if got != want || inner != 1000+want+n {
			return fmt.Errorf("got %d and %d, want %d and %d", got, inner, want, 1000+want+n)
		}
	}
	if n != 2 {
		return errors.Join(rows.Err(), fmt.Errorf("%d rows", n))
	}
	return rows.Err()
}
