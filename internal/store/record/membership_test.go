package record_test

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// member is a row of repository_content: a unit that was added in a version and perhaps removed in a later one.
type member struct {
	key            string
	added, removed int64 // removed is 0 if the unit was not removed
}

// history is a repository for tests: the numbers of its existing versions, in order, and its rows.
type history struct {
	versions []int64
	members  []member
}

// content returns the keys in the version with a number, which may be a deleted one.
func (h history) content(number int64) map[string]bool {
	keys := map[string]bool{}
	for _, m := range h.members {
		if m.added <= number && (m.removed == 0 || number < m.removed) {
			keys[m.key] = true
		}
	}
	return keys
}

// difference returns the keys of a set that are not in another one, in order.
func difference(from, without map[string]bool) []string {
	keys := []string{}
	for key := range from {
		if !without[key] {
			keys = append(keys, key)
		}
	}
	return sorted(keys)
}

// drawHistory draws a history. Some versions were deleted, so that changes of several versions are seen as one.
func drawHistory(r *rapid.T) history {
	var h history
	const last = 6
	for number := range int64(last + 1) {
		if number == last || rapid.Bool().Draw(r, "exists") {
			h.versions = append(h.versions, number)
		}
	}
	for i := range rapid.IntRange(0, 8).Draw(r, "units") {
		m := member{key: fmt.Sprint("unit ", i), added: rapid.Int64Range(0, last).Draw(r, "added")}
		if m.added < last && rapid.Bool().Draw(r, "is removed") {
			m.removed = rapid.Int64Range(m.added+1, last).Draw(r, "removed")
		}
		h.members = append(h.members, m)
	}
	return h
}

// insert stores the history as a repository with an id, in one transaction.
func (h history) insert(ctx context.Context, s *store.Store, id string) error {
	return s.DB.InTx(ctx, func(x *sqldb.Tx) error {
		_, err := x.Exec(`INSERT INTO repository (id, type, name, created, updated) VALUES ($1, 'container-push', $1, 0, 0)`, id)
		for _, number := range h.versions {
			if err == nil {
				_, err = x.Exec(`INSERT INTO repository_version (id, repository_id, number, created, updated) VALUES ($1, $2, $3, 0, 0)`,
					fmt.Sprint(id, number), id, number)
			}
		}
		for _, m := range h.members {
			if err == nil {
				_, err = x.Exec(`
					INSERT INTO repository_content (repository_id, kind, key, content_id, version_added, version_removed)
					VALUES ($1, $2, $3, $3, $4, NULLIF(CAST($5 AS BIGINT), 0))`, id, pulp.KindBlob, m.key, m.added, m.removed)
			}
		}
		return err
	})
}

// TestMembership compares the conditions on versions with sets: a version added the units that are in it and not in the
// version before it, and removed those that are in that version and not in it.
func TestMembership(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	runs := 0
	rapid.Check(t, func(r *rapid.T) {
		runs++
		id := fmt.Sprint("repository ", runs)
		h := drawHistory(r)
		if err := h.insert(t.Context(), s, id); err != nil {
			r.Fatal(err)
		}
		query := func(condition string, args ...any) []string {
			got, err := sqldb.Collect(t.Context(), s.DB.Read(), sqldb.ScanString,
				`SELECT c.key FROM repository_content c WHERE c.repository_id = $1 AND `+condition, append([]any{id}, args...)...)
			if err != nil {
				r.Fatalf("%s: %v", condition, err)
			}
			return sorted(got)
		}
		previous := map[string]bool{}
		for _, number := range h.versions {
			present := h.content(number)
			for name, tt := range map[string]struct{ got, want []string }{
				"InVersion":       {got: query(record.InVersion("$2"), number), want: difference(present, nil)},
				"InServedVersion": {got: query(record.InServedVersion(number, "$2"), number), want: difference(present, nil)},
				"AddedIn":         {got: query(record.AddedIn("$1", "$2"), number), want: difference(present, previous)},
				"RemovedIn":       {got: query(record.RemovedIn("$1", "$2"), number), want: difference(previous, present)},
			} {
				if !slices.Equal(tt.got, tt.want) {
					r.Errorf("%s, version %d: %v, want %v", name, number, tt.got, tt.want)
				}
			}
			previous = present
		}
		if got := query(record.InServedVersion(record.Latest, "$2"), record.Latest); !slices.Equal(got, difference(previous, nil)) {
			r.Errorf("InServedVersion of the latest version: %v, want %v", got, slices.Sorted(maps.Keys(previous)))
		}
	})
}

// TestMembershipOfEachVersion uses the conditions with columns for the repository and number, and with a second
// repository, which has versions between those of the first one.
func TestMembershipOfEachVersion(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	for id, versions := range map[string][]int64{"a": {0, 3}, "b": {0, 1, 2, 3}} {
		insertRepository(t, s, id, id)
		for _, number := range versions {
			insertVersion(t, s, id, number)
		}
		insertPlain(t, s, "repository_content", row{
			"repository_id": id, "kind": pulp.KindBlob, "key": "added in 1", "content_id": "1", "version_added": 1,
		})
		insertPlain(t, s, "repository_content", row{
			"repository_id": id, "kind": pulp.KindBlob, "key": "removed in 2", "content_id": "2", "version_added": 0, "version_removed": 2,
		})
	}
	for name, tt := range map[string]struct {
		condition string
		want      []string
	}{
		"InVersion": {condition: record.InVersion("v.number"), want: []string{
			"a-0 removed in 2", "a-3 added in 1", "b-0 removed in 2", "b-1 added in 1", "b-1 removed in 2", "b-2 added in 1", "b-3 added in 1",
		}},
		"AddedIn": {condition: record.AddedIn("v.repository_id", "v.number"), want: []string{
			"a-0 removed in 2", "a-3 added in 1", "b-0 removed in 2", "b-1 added in 1",
		}},
		"RemovedIn": {condition: record.RemovedIn("v.repository_id", "v.number"), want: []string{"a-3 removed in 2", "b-2 removed in 2"}},
	} {
		got, err := sqldb.Collect(t.Context(), s.DB.Read(), sqldb.ScanString, `
			SELECT v.id || ' ' || c.key FROM repository_version v JOIN repository_content c ON c.repository_id = v.repository_id
			 WHERE `+tt.condition)
		if err != nil || !reflect.DeepEqual(sorted(got), tt.want) {
			t.Errorf("%s: %q, %v, want %q", name, got, err, tt.want)
		}
	}
}
