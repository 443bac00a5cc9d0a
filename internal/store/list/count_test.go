package list_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestCountAgreesWithPage counts a list whose pages end before, at and after its last row.
func TestCountAgreesWithPage(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	for i := range 5 {
		createNamespace(t, s, fmt.Sprint("n", i))
	}
	for _, tt := range []struct{ limit, offset, rows int }{
		{1, 0, 1}, {4, 0, 4}, {5, 0, 5}, {6, 0, 5}, {2, 3, 2}, {2, 4, 1}, {2, 5, 0}, {2, 50, 0},
	} {
		found, err := list.NamespaceList.Find(t.Context(), s.Lists, list.Query{Limit: tt.limit, Offset: tt.offset})
		if err != nil || found.Count != 5 || len(found.IDs) != tt.rows {
			t.Errorf("limit %d, offset %d: %d rows of %d, %v, want %d of 5", tt.limit, tt.offset, len(found.IDs), found.Count, err, tt.rows)
		}
	}
}

// TestVisibleRowsInBothForms compares the rows that users see when their repositories are selected first with those when the
// rows are checked one by one.
func TestVisibleRowsInBothForms(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	for i := range 12 {
		path := fmt.Sprintf("%s/app%d", []string{"acme", "other", "third"}[i%3], i)
		target := storetest.Target(t, s, path)
		storetest.PushImage(t, s, target.Repository.ID, "shared", "latest")
		storetest.PushImage(t, s, target.Repository.ID, fmt.Sprint("image ", i%5), fmt.Sprint("v", i))
		if i%4 != 0 {
			if err := s.Catalog.SetPrivate(t.Context(), path, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	many := list.New(s.DB)
	many.CheckRows()
	for _, user := range []string{"acme", "other", "nobody"} {
		q := list.Query{Where: []list.Filter{list.VisibleTo(storetest.ViewerOf(t, s, user))}, Limit: 100}
		sameRows(t, user+", tags", s.Lists.Tags, many.Tags, tagsOf, q)
		sameRows(t, user+", manifests", s.Lists.Manifests, many.Manifests, manifestsOf, q)
		sameRows(t, user+", blobs", s.Lists.Blobs, many.Blobs, blobsOf, q)
		sameRows(t, user+", repositories", s.Lists.Repositories, many.Repositories, repositoriesOf, q)
		sameRows(t, user+", versions", s.Lists.Versions, many.Versions, versionsOf, q)
	}
}

// sameRows compares the rows of two lists.
func sameRows[T any](
	t *testing.T, name string, x, y func(context.Context, list.Query) ([]T, int64, error), id func(T) string, q list.Query,
) {
	t.Helper()
	want, n := rowsOf(t, x, id, q)
	got, m := rowsOf(t, y, id, q)
	if diff := cmp.Diff(want, got); diff != "" || n != m {
		t.Errorf("%s: %d and %d rows (-first +second):\n%s", name, n, m, diff)
	}
	if name == "acme, tags" && n == 0 {
		t.Errorf("%s: no rows are compared", name)
	}
}

func tagsOf(v pulp.Tag) string                 { return v.ID }
func manifestsOf(v list.ListedManifest) string { return v.ID }
func blobsOf(v pulp.Blob) string               { return v.ID }
func repositoriesOf(v pulp.Repository) string  { return v.ID }
func versionsOf(v pulp.Version) string         { return v.ID }
