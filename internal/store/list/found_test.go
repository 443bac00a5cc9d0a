package list_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/storetest"
)

// pieces returns the rows of a query on the list of repositories, piece by piece.
func pieces(t *testing.T, s *store.Store, q list.Query) [][]pulp.Repository {
	t.Helper()
	found, err := list.RepositoryList.Find(t.Context(), s.Lists, q)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]pulp.Repository
	for piece, err := range found.Pieces(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, piece)
	}
	return all
}

// lengths returns the numbers of rows of pieces.
func lengths(pieces [][]pulp.Repository) []int {
	var n []int
	for _, p := range pieces {
		n = append(n, len(p))
	}
	return n
}

// TestPiecesBySize proves that large data bounds a piece, unless it is not shown.
func TestPiecesBySize(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	for i, kib := range []int{100, 100, 300, 1, 100, 100, 100} {
		text := strings.Repeat("x", kib<<10)
		createRepository(t, s, pulp.Repository{Name: fmt.Sprint(i), Description: &text})
	}
	q := list.Query{Order: []list.Order{{Field: "name"}}, Limit: 100}
	shown := pieces(t, s, q)
	if got, want := lengths(shown), []int{2, 1, 3, 1}; !slices.Equal(got, want) {
		t.Errorf("pieces of %v rows, want %v", got, want)
	}
	q.Wanted = func(attribute string) bool { return attribute == "name" }
	hidden := pieces(t, s, q)
	if got, want := lengths(hidden), []int{7}; !slices.Equal(got, want) {
		t.Errorf("without descriptions pieces of %v rows, want %v", got, want)
	}
	for i, r := range slices.Concat(shown...) {
		if r.Name != fmt.Sprint(i) || r.Description == nil {
			t.Errorf("row %d is %s with description: %t", i, r.Name, r.Description != nil)
		}
		if h := hidden[0][i]; h.ID != r.ID || h.Description != nil {
			t.Errorf("row %d is %s with description: %t, want none", i, h.Name, h.Description != nil)
		}
	}
}

// TestPiecesByRows proves that a piece has at most 100 rows and that Count and IDs cover the query.
func TestPiecesByRows(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	for i := range 205 {
		createRepository(t, s, pulp.Repository{Name: fmt.Sprint(i)})
	}
	if got, want := lengths(pieces(t, s, list.Query{Limit: 1000})), []int{100, 100, 5}; !slices.Equal(got, want) {
		t.Errorf("pieces of %v rows, want %v", got, want)
	}
	found, err := list.RepositoryList.Find(t.Context(), s.Lists, list.Query{Limit: 50, Offset: 200})
	if err != nil || found.Count != 205 || len(found.IDs) != 5 {
		t.Errorf("Find = %d ids of %d, %v, want 5 of 205", len(found.IDs), found.Count, err)
	}
	if got := pieces(t, s, list.Query{Limit: 50, Offset: 500}); len(got) != 0 {
		t.Errorf("after the end there are %d pieces", len(got))
	}
}

// TestPiecesSkipDeletedRows proves that rows that are deleted after Find are left out.
func TestPiecesSkipDeletedRows(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	var ids []string
	for _, name := range []string{"a", "b", "c"} {
		ids = append(ids, createRepository(t, s, pulp.Repository{Name: name}).ID)
	}
	found, err := list.RepositoryList.Find(t.Context(), s.Lists, list.Query{Order: []list.Order{{Field: "name"}}, Limit: 10})
	if err != nil || !slices.Equal(found.IDs, ids) {
		t.Fatalf("Find = %+v, %v", found, err)
	}
	if err := s.Catalog.DeleteRepository(t.Context(), nil, pulp.Container, ids[1]); err != nil {
		t.Fatal(err)
	}
	var got []string
	for piece, err := range found.Pieces(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range piece {
			got = append(got, r.Name)
		}
	}
	if want := []string{"a", "c"}; !slices.Equal(got, want) {
		t.Errorf("rows %v, want %v", got, want)
	}
}

// TestPiecesEnd proves that a caller can stop after a piece, and that an error of the database is yielded once.
func TestPiecesEnd(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	for i := range 150 {
		createRepository(t, s, pulp.Repository{Name: fmt.Sprint(i)})
	}
	found, err := list.RepositoryList.Find(t.Context(), s.Lists, list.Query{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for range found.Pieces(t.Context()) {
		n++
		break
	}
	if n != 1 {
		t.Errorf("%d pieces after a break", n)
	}
	if err := s.DB.Close(); err != nil {
		t.Fatal(err)
	}
	var errs []error
	for piece, err := range found.Pieces(t.Context()) {
		if piece != nil {
			t.Error("a closed database yielded rows")
		}
		errs = append(errs, err)
	}
	if len(errs) != 1 || errs[0] == nil {
		t.Errorf("a closed database yielded %v, want one error", errs)
	}
}
