package sqldb_test

import (
	"testing"

	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestFewStatementsStayPrepared lists with 2,000 different texts. Few of the statements stay prepared, none of the store's own is displaced, and on PostgreSQL the
// server keeps none of the composed ones.
func TestFewStatementsStayPrepared(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	if _, err := s.Serving.Resolve(t.Context(), "acme/app"); err == nil { // a text of the store's own
		t.Fatal("there is a distribution")
	}
	for i := range 2000 {
		var terms []list.Filter
		for bit := range 11 {
			terms = append(terms, list.Label("key", list.LabelOp(i>>bit&1), "value"))
		}
		if _, _, err := s.Lists.Repositories(t.Context(), list.Query{Where: terms, Limit: 10}); err != nil {
			t.Fatal(err)
		}
	}
	if s.DB.IsPostgres() {
		var composed int
		if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM pg_prepared_statements WHERE statement LIKE '%json_entries(r.labels)%' AND statement NOT LIKE '%pg_prepared%'`).
			Scan(&composed); err != nil || composed > 0 {
			t.Errorf("the server keeps %d composed statements, %v", composed, err)
		}
		return
	}
	fixed, composed := s.DB.PreparedStatements()
	if composed == 0 || composed > sqldb.PreparedComposed {
		t.Errorf("%d composed statements are kept, want 1 to %d", composed, sqldb.PreparedComposed)
	}
	if n := fixed; n == 0 || n > 50 {
		t.Errorf("%d statements of the store's own are kept", n)
	}
}
