package record_test

import (
	"slices"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// addVisibility inserts repositories of several owners, each with the name as its id and a unit of the same id.
func addVisibility(t *testing.T, s *store.Store) {
	t.Helper()
	for _, name := range []string{"acme", "other", "a_me"} {
		insert(t, s, "namespace", row{"id": name, "name": name})
	}
	for _, r := range []struct {
		name      string
		namespace string // of its distribution; empty if it has none
		private   bool
	}{
		{name: "acme"},
		{name: "acme/app"},
		{name: "acme/private", namespace: "acme", private: true},
		{name: "acme2/app"},
		{name: "a_me/app"},
		{name: "other/app"},
		{name: "other/public", namespace: "other"},
		{name: "other/private", namespace: "other", private: true},
		{name: "mirror", namespace: "acme", private: true},
	} {
		insertRepository(t, s, r.name, r.name)
		insertPlain(t, s, "repository_content", row{
			"repository_id": r.name, "kind": pulp.KindBlob, "key": r.name, "content_id": "unit of " + r.name, "version_added": 1,
		})
		if r.namespace != "" {
			insert(t, s, "distribution", row{
				"id": r.name, "name": r.name, "base_path": r.name, "repository_id": r.name, "namespace_id": r.namespace, "private": r.private,
			})
		}
	}
}

// visibility has the repositories that users see, besides those that all users see. The users acme, other and a_me own the
// namespaces of their names; those of the other names do not exist.
var visibility = map[string][]string{
	"acme":      {"acme", "acme/app", "acme/private"},
	"a_me":      {"a_me/app"},
	"other":     {"other/app", "other/private"},
	"acme2":     {},
	"acm":       {},
	"acme/":     {},
	"%":         {},
	"ACME":      {},
	"' OR '1'=": {},
}

// visibleTo returns the query of the ids of the repositories that a user sees, with its arguments.
func visibleTo(t *testing.T, s *store.Store, user string) (query string, args []any) {
	t.Helper()
	a := &record.Args{}
	return record.Permitted{Viewer: storetest.ViewerOf(t, s, user), Arg: a.Add}.VisibleRepositories(), a.Values
}

// TestVisibleRepositories verifies that users see the repositories of their namespaces and those that a public distribution
// serves. TestScopeIsThatOfAllow in package accounts covers the other roles.
func TestVisibleRepositories(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	addVisibility(t, s)
	for user, own := range visibility {
		want := sorted(append([]string{"other/public"}, own...))
		query, args := visibleTo(t, s, user)
		got, err := sqldb.Collect(t.Context(), s.DB.Read(), sqldb.ScanString, query, args...)
		if err != nil || !slices.Equal(slices.Compact(sorted(got)), want) {
			t.Errorf("the user %q sees %q, %v, want %q", user, got, err, want)
		}
	}
}

// TestSeesContent verifies that users see the units of all versions of the repositories that they see.
func TestSeesContent(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	addVisibility(t, s)
	insertPlain(t, s, "repository_content", row{
		"repository_id": "acme/app", "kind": pulp.KindBlob, "key": "x", "content_id": "removed unit", "version_added": 1, "version_removed": 2,
	})
	insertPlain(t, s, "repository_content", row{ // a unit of another owner that is also in a repository of acme
		"repository_id": "acme/app", "kind": pulp.KindBlob, "key": "y", "content_id": "unit of other/private", "version_added": 1,
	})
	for user, own := range visibility {
		want := []string{"unit of other/public"}
		for _, name := range own {
			want = append(want, "unit of "+name)
		}
		if user == "acme" {
			want = append(want, "removed unit", "unit of other/private")
		}
		query, args := visibleTo(t, s, user)
		got, err := sqldb.Collect(t.Context(), s.DB.Read(), sqldb.ScanString,
			`SELECT DISTINCT c.content_id FROM repository_content c WHERE `+record.SeesContent("c.content_id", "vc.repository_id IN ("+query+")"), args...)
		if err != nil || !slices.Equal(sorted(got), sorted(want)) {
			t.Errorf("the user %q sees %q, %v, want %q", user, got, err, want)
		}
	}
}
