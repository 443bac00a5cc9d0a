package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
)

// TestFewStatementsStayPrepared lists with 2,000 different texts. Few of the statements stay prepared, none of the store's own is displaced, and on PostgreSQL the
// server keeps none of the composed ones.
func TestFewStatementsStayPrepared(t *testing.T) {
	t.Parallel()
	s := open(t)
	if _, err := s.Resolve(t.Context(), "acme/app"); err == nil { // a text of the store's own
		t.Fatal("there is a distribution")
	}
	for i := range 2000 {
		var terms []Filter
		for bit := range 11 {
			terms = append(terms, Label("key", LabelOp(i>>bit&1), "value"))
		}
		if _, _, err := s.Repositories(t.Context(), ListQuery{Where: terms, Limit: 10}); err != nil {
			t.Fatal(err)
		}
	}
	if s.postgres != nil {
		var composed int
		if err := s.read.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM pg_prepared_statements WHERE statement LIKE '%json_entries(r.labels)%' AND statement NOT LIKE '%pg_prepared%'`).
			Scan(&composed); err != nil || composed > 0 {
			t.Errorf("the server keeps %d composed statements, %v", composed, err)
		}
		return
	}
	p, ok := s.read.pool.(*prepared)
	if !ok {
		t.Fatalf("the pool is %T", s.read)
	}
	if n := p.lists.kept.Len(); n == 0 || n > preparedComposed {
		t.Errorf("%d composed statements are kept, want 1 to %d", n, preparedComposed)
	}
	if n := p.fixed.kept.Len(); n == 0 || n > 50 {
		t.Errorf("%d statements of the store's own are kept", n)
	}
}

// TestEvictedStatementsFinish runs many texts through a cache of two, at once, and reads the rows only after the statements were displaced: each call gets its
// answer, and in the end every displaced statement is closed.
func TestEvictedStatementsFinish(t *testing.T) {
	t.Parallel()
	s := open(t)
	p, ok := s.read.pool.(*prepared)
	if !ok {
		t.Skip("PostgreSQL keeps no statements of its own here")
	}
	few := newStatements(p.DB, 2)
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

func twoRows(ctx context.Context, q querier, query string, want int) error {
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
