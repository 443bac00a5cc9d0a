package list_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/storetest"
)

// rowsOf returns the names of the rows of a query, in order, and the number of rows without its limit and offset. A limit of
// 0 stands for 100.
func rowsOf[T any](
	t *testing.T, rows func(context.Context, list.Query) ([]T, int64, error), name func(T) string, q list.Query,
) ([]string, int64) {
	t.Helper()
	if q.Limit == 0 {
		q.Limit = 100
	}
	found, count, err := rows(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, r := range found {
		names = append(names, name(r))
	}
	return names, count
}

// repositories returns the names of repositories.
func repositories(t *testing.T, s *store.Store, q list.Query) ([]string, int64) {
	t.Helper()
	return rowsOf(t, s.Lists.Repositories, func(r pulp.Repository) string { return r.Name }, q)
}

// namespaces returns the names of namespaces.
func namespaces(t *testing.T, s *store.Store, q list.Query) ([]string, int64) {
	t.Helper()
	return rowsOf(t, s.Lists.Namespaces, func(n pulp.Namespace) string { return n.Name }, q)
}

// createRepository creates a container repository.
func createRepository(t *testing.T, s *store.Store, r pulp.Repository) pulp.Repository {
	t.Helper()
	r.Type = pulp.Container
	created, err := s.Catalog.CreateRepository(t.Context(), r, 0)
	if err != nil {
		t.Fatal(err)
	}
	return created
}

// createNamespace creates a namespace.
func createNamespace(t *testing.T, s *store.Store, name string) pulp.Namespace {
	t.Helper()
	n, err := s.Catalog.CreateNamespace(t.Context(), pulp.Namespace{Name: name}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPagesCoverAListOnce proves that consecutive pages have each row once and the same count.
func TestPagesCoverAListOnce(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	want := []string{}
	for i := range 7 {
		want = append(want, createNamespace(t, s, fmt.Sprintf("n%d", i)).Name)
	}
	var got []string
	for offset := 0; offset < 9; offset += 3 {
		names, count := namespaces(t, s, list.Query{Order: []list.Order{{Field: "name"}}, Limit: 3, Offset: offset})
		if count != 7 {
			t.Errorf("count %d at offset %d, want 7", count, offset)
		}
		got = append(got, names...)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if names, count := namespaces(t, s, list.Query{Limit: 3, Offset: 100}); len(names) != 0 || count != 7 {
		t.Errorf("after the end: %v of %d, want none of 7", names, count)
	}
	filter := []list.Filter{list.OneOf("name", []string{"n1", "n3", "n5"})}
	if names, count := namespaces(t, s, list.Query{Where: filter, Limit: 2}); !slices.Equal(names, []string{"n5", "n3"}) || count != 3 {
		t.Errorf("a page of a filtered list: %v of %d, want n5 and n3 of 3", names, count)
	}
}

// TestUnknownFields proves that a field that a list lacks is an error, whatever its text.
func TestUnknownFields(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	for name, q := range map[string]list.Query{
		"in a filter":              {Where: []list.Filter{list.Where("name; DROP TABLE task", list.Equal, "x")}, Limit: 1},
		"in the order":             {Order: []list.Order{{Field: "1; DROP TABLE task"}}, Limit: 1},
		"a field of another list":  {Where: []list.Filter{list.Where("base_path", list.Equal, "x")}, Limit: 1},
		"in a part of a condition": {Where: []list.Filter{list.Any(list.All(), list.Not(list.IsNull("x", true)))}, Limit: 1},
	} {
		if _, _, err := s.Lists.Tasks(t.Context(), q); err == nil || !strings.Contains(err.Error(), "no field") {
			t.Errorf("Tasks, %s: %v, want an error about the field", name, err)
		}
		if _, err := list.TaskList.Find(t.Context(), s.Lists, q); err == nil || !strings.Contains(err.Error(), "no field") {
			t.Errorf("Find, %s: %v, want an error about the field", name, err)
		}
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	prefix := strings.Repeat("x", 256) // the compared beginning of a long text
	for _, r := range []struct {
		name        string
		retain      int64 // 0: NULL
		description string
	}{
		{name: "first", retain: 2, description: prefix + "b"},
		{name: "second", description: prefix + "a"},
		{name: "third", retain: 10, description: "a"},
		{name: "fourth", retain: 2, description: "b"},
	} {
		created := pulp.Repository{Name: r.name, Description: &r.description}
		if r.retain > 0 {
			created.RetainRepoVersions = &r.retain
		}
		createRepository(t, s, created)
	}
	for name, tt := range map[string]struct {
		order []list.Order
		want  []string
	}{
		"usual: newest first":        {want: []string{"fourth", "third", "second", "first"}},
		"ascending":                  {order: []list.Order{{Field: "name"}}, want: []string{"first", "fourth", "second", "third"}},
		"descending":                 {order: []list.Order{{Field: "name", Desc: true}}, want: []string{"third", "second", "fourth", "first"}},
		"oldest first":               {order: []list.Order{{Field: "pulp_created"}}, want: []string{"first", "second", "third", "fourth"}},
		"NULL last, ties newest":     {order: []list.Order{{Field: "retain_repo_versions"}}, want: []string{"fourth", "first", "third", "second"}},
		"NULL first when descending": {order: []list.Order{{Field: "retain_repo_versions", Desc: true}}, want: []string{"second", "third", "fourth", "first"}},
		"two fields": {
			order: []list.Order{{Field: "retain_repo_versions"}, {Field: "name"}}, want: []string{"first", "fourth", "third", "second"},
		},
		"long texts by their beginning": {order: []list.Order{{Field: "description"}}, want: []string{"third", "fourth", "second", "first"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, _ := repositories(t, s, list.Query{Order: tt.order})
			if !slices.Equal(got, tt.want) {
				t.Errorf("names %v, want %v", got, tt.want)
			}
		})
	}
}
