package list_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// TestFilters compares the filters on fields and labels with the rows that they select, newest first.
func TestFilters(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	for i, name := range []string{"a/one", "a/two", "b/One"} {
		retain, value := int64(i), fmt.Sprint(i)
		r := pulp.Repository{Name: name, Labels: pulp.Labels{"n": &value, "bare": nil}}
		if i > 0 {
			r.RetainRepoVersions = &retain
		}
		createRepository(t, s, r)
	}
	all := []string{"b/One", "a/two", "a/one"}
	is := func(op list.Op, v any) list.Filter { return list.Where("name", op, v) }
	retain := func(op list.Op, v int64) list.Filter { return list.Where("retain_repo_versions", op, v) }
	for name, tt := range map[string]struct {
		filter list.Filter
		want   []string
	}{
		"equal":                           {filter: is(list.Equal, "a/one"), want: []string{"a/one"}},
		"not equal":                       {filter: is(list.NotEqual, "a/one"), want: []string{"b/One", "a/two"}},
		"equal, ignoring case":            {filter: is(list.EqualFold, "A/ONE"), want: []string{"a/one"}},
		"contains":                        {filter: is(list.Contains, "/o"), want: []string{"a/one"}},
		"contains, ignoring case":         {filter: is(list.ContainsFold, "/O"), want: []string{"b/One", "a/one"}},
		"contains no wildcard":            {filter: is(list.Contains, "%"), want: []string{}},
		"prefix":                          {filter: is(list.HasPrefix, "a/"), want: []string{"a/two", "a/one"}},
		"prefix, ignoring case":           {filter: is(list.HasPrefixFold, "B/o"), want: []string{"b/One"}},
		"regular expression":              {filter: is(list.Match, "o$|^b"), want: []string{"b/One", "a/two"}},
		"quotes":                          {filter: is(list.Equal, "' OR 1=1 --"), want: []string{}},
		"one of several":                  {filter: list.OneOf("name", []string{"a/one", "b/One", "x"}), want: []string{"b/One", "a/one"}},
		"one of none":                     {filter: list.OneOf("name", nil), want: []string{}},
		"less":                            {filter: retain(list.Less, 2), want: []string{"a/two"}},
		"at most":                         {filter: retain(list.AtMost, 2), want: []string{"b/One", "a/two"}},
		"greater":                         {filter: retain(list.Greater, 1), want: []string{"b/One"}},
		"at least":                        {filter: retain(list.AtLeast, 1), want: []string{"b/One", "a/two"}},
		"null":                            {filter: list.IsNull("retain_repo_versions", true), want: []string{"a/one"}},
		"not null":                        {filter: list.IsNull("retain_repo_versions", false), want: []string{"b/One", "a/two"}},
		"not, of a null":                  {filter: list.Not(retain(list.Equal, 1)), want: []string{"b/One", "a/one"}},
		"any":                             {filter: list.Any(is(list.Equal, "a/one"), is(list.Equal, "a/two")), want: []string{"a/two", "a/one"}},
		"any of none":                     {filter: list.Any(), want: []string{}},
		"all":                             {filter: list.All(is(list.HasPrefix, "a/"), retain(list.Equal, 1)), want: []string{"a/two"}},
		"all of none":                     {filter: list.All(), want: all},
		"label present":                   {filter: list.Label("bare", list.LabelPresent, ""), want: all},
		"label not present":               {filter: list.Label("x", list.LabelPresent, ""), want: []string{}},
		"label absent":                    {filter: list.Label("n", list.LabelAbsent, ""), want: []string{}},
		"label equal":                     {filter: list.Label("n", list.LabelIs, "1"), want: []string{"a/two"}},
		"label not equal":                 {filter: list.Label("n", list.LabelIsNot, "1"), want: []string{"b/One", "a/one"}},
		"label without a value not equal": {filter: list.Label("bare", list.LabelIsNot, "1"), want: all},
		"label contains":                  {filter: list.Label("n", list.LabelContains, "2"), want: []string{"b/One"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			names, count := repositories(t, s, list.Query{Where: []list.Filter{tt.filter}})
			if diff := cmp.Diff(tt.want, names); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
			if count != int64(len(tt.want)) {
				t.Errorf("count %d, want %d", count, len(tt.want))
			}
		})
	}
}

// TestMatchNeedsText proves that a pattern of another type than string, or an invalid one, is an error and not a panic.
func TestMatchNeedsText(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	if _, _, err := s.Lists.Namespaces(t.Context(), list.Query{Where: []list.Filter{list.Where("name", list.Match, 1)}, Limit: 1}); err == nil {
		t.Error("a number was accepted as a pattern")
	}
	invalid := list.Query{Where: []list.Filter{list.Where("name", list.Match, "(")}, Limit: 1}
	if _, err := list.NamespaceList.Find(t.Context(), s.Lists, invalid); !fault.Is(err, fault.Invalid) {
		t.Errorf("an invalid pattern: %v, want Invalid", err)
	}
}

// manifestTexts returns the digests of listed manifests as the names in texts, sorted.
func manifestTexts(t *testing.T, s *store.Store, texts map[string]pulp.Manifest, filter list.Filter) []string {
	t.Helper()
	names, _ := rowsOf(t, s.Lists.Manifests, func(m list.ListedManifest) string {
		for text, pushed := range texts {
			if pushed.Digest == m.Digest {
				return text
			}
		}
		return string(m.Digest)
	}, list.Query{Where: []list.Filter{filter}})
	slices.Sort(names)
	return names
}

// contentID returns the id of a manifest.
func contentID(t *testing.T, s *store.Store, m pulp.Manifest) string {
	t.Helper()
	ids, _ := rowsOf(t, s.Lists.Manifests, func(m list.ListedManifest) string { return m.ID },
		list.Query{Where: []list.Filter{list.Where("digest", list.Equal, string(m.Digest))}})
	if len(ids) != 1 {
		t.Fatalf("%d manifests have the digest %s", len(ids), m.Digest)
	}
	return ids[0]
}

// pushedVersions is a repository whose version 1 added the manifest "one" and whose version 2 added "two"; version 3 removed
// "one".
type pushedVersions struct {
	repository pulp.Repository
	manifests  map[string]pulp.Manifest
}

func pushVersions(t *testing.T, s *store.Store) pushedVersions {
	t.Helper()
	r := storetest.Target(t, s, "acme/app").Repository
	one, _ := storetest.PushImage(t, s, r.ID, "one", "v1")
	two, _ := storetest.PushImage(t, s, r.ID, "two", "v2")
	if _, err := s.Content.DeleteManifest(t.Context(), r.ID, one.Digest); err != nil {
		t.Fatal(err)
	}
	return pushedVersions{repository: r, manifests: map[string]pulp.Manifest{"one": one, "two": two}}
}

func TestInVersion(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	pushed := pushVersions(t, s)
	for _, tt := range []struct {
		number  int64
		present []string
		added   []string
		removed []string
	}{
		{number: 0},
		{number: 1, present: []string{"one"}, added: []string{"one"}},
		{number: 2, present: []string{"one", "two"}, added: []string{"two"}},
		{number: 3, present: []string{"two"}, removed: []string{"one"}},
	} {
		for relation, want := range map[list.Membership][]string{list.Present: tt.present, list.Added: tt.added, list.Removed: tt.removed} {
			got := manifestTexts(t, s, pushed.manifests, list.InVersion(pushed.repository.ID, tt.number, relation))
			if !slices.Equal(got, want) {
				t.Errorf("version %d, membership %d: %v, want %v", tt.number, relation, got, want)
			}
		}
	}
	if got := manifestTexts(t, s, pushed.manifests, list.InVersion(pulp.NewID(), 1, list.Present)); len(got) != 0 {
		t.Errorf("another repository has %v", got)
	}
}

// TestContentFilters compares the lists of repositories, versions and distributions that have a unit.
func TestContentFilters(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	pushed := pushVersions(t, s)
	id := pushed.repository.ID
	first, err := s.Content.Version(t.Context(), id, 1)
	if err != nil {
		t.Fatal(err)
	}
	pinned := &pulp.PinnedVersion{VersionID: first.ID, RepositoryID: id}
	if _, err := s.Catalog.CreateDistribution(t.Context(), nil, pulp.Distribution{Name: "pinned", BasePath: "pinned", Pinned: pinned}, 0); err != nil {
		t.Fatal(err)
	}
	storetest.Target(t, s, "acme/other")
	for name, tt := range map[string]struct {
		unit          string
		repositories  []string
		latest        []string // repositories that have the unit in their latest version
		versions      []string // newest first
		distributions []string
	}{
		"removed unit": {
			unit: "one", repositories: []string{"acme/app"}, latest: []string{}, versions: []string{"2", "1"}, distributions: []string{"pinned"},
		},
		"present unit": {
			unit: "two", repositories: []string{"acme/app"}, latest: []string{"acme/app"}, versions: []string{"3", "2"},
			distributions: []string{"acme/app"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			units := []string{contentID(t, s, pushed.manifests[tt.unit]), pulp.NewID()}
			if got, _ := repositories(t, s, list.Query{Where: []list.Filter{list.Holding(units, false)}}); !slices.Equal(got, tt.repositories) {
				t.Errorf("repositories %v, want %v", got, tt.repositories)
			}
			if got, _ := repositories(t, s, list.Query{Where: []list.Filter{list.Holding(units, true)}}); !slices.Equal(got, tt.latest) {
				t.Errorf("repositories by their latest version %v, want %v", got, tt.latest)
			}
			number := func(v pulp.Version) string { return fmt.Sprint(v.Number) }
			got, _ := rowsOf(t, s.Lists.Versions, number, list.Query{Where: []list.Filter{list.VersionHolding(units)}})
			if !slices.Equal(got, tt.versions) {
				t.Errorf("versions %v, want %v", got, tt.versions)
			}
			path := func(d pulp.Distribution) string { return d.BasePath }
			got, _ = rowsOf(t, s.Lists.Distributions, path, list.Query{Where: []list.Filter{list.Serving(units)}})
			if !slices.Equal(got, tt.distributions) {
				t.Errorf("distributions %v, want %v", got, tt.distributions)
			}
		})
	}
}

func TestVersionsNamed(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	a, b := storetest.Target(t, s, "acme/a").Repository, storetest.Target(t, s, "acme/b").Repository
	storetest.PushImage(t, s, a.ID, "one", "v1")
	storetest.PushImage(t, s, b.ID, "two", "v1")
	name := func(v pulp.Version) string {
		return map[string]string{a.ID: "a", b.ID: "b"}[v.RepositoryID] + fmt.Sprint(v.Number)
	}
	got, _ := rowsOf(t, s.Lists.Versions, name, list.Query{Where: []list.Filter{list.VersionsNamed([]list.VersionName{
		{RepositoryID: a.ID, Number: 1}, {RepositoryID: b.ID, Number: 0}, {RepositoryID: b.ID, Number: 7},
	})}})
	if slices.Sort(got); !slices.Equal(got, []string{"a1", "b0"}) {
		t.Errorf("versions %v, want a1 and b0", got)
	}
}

func TestTaskFilters(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	create := func(name string, resources ...taskstore.Resource) {
		t.Helper()
		_, err := s.Tasks.CreateTask(t.Context(), taskstore.NewTask{Name: name, Origin: taskstore.OriginSystem, Resources: resources})
		if err != nil {
			t.Fatal(err)
		}
	}
	claim := storetest.StartTask(t, s)
	created := []taskstore.Created{{Href: "/created/", PRN: "prn:created"}}
	if err := s.Tasks.CompleteTask(t.Context(), claim, taskstore.Outcome{Created: created}); err != nil {
		t.Fatal(err)
	}
	create("exclusive", taskstore.Resource{Href: "/a/", Exclusive: true})
	create("shared", taskstore.Resource{Href: "/a/"})
	create("other", taskstore.Resource{Href: "/b/"})
	create(taskstore.PushSigningTask)
	for name, tt := range map[string]struct {
		filter list.Filter
		want   []string
	}{
		"all but internal tasks": {filter: list.All(), want: []string{"other", "shared", "exclusive", "test"}},
		"exclusive":              {filter: list.Reserving([]string{"/a/"}, true, false), want: []string{"exclusive"}},
		"shared":                 {filter: list.Reserving([]string{"/a/"}, false, true), want: []string{"shared"}},
		"either":                 {filter: list.Reserving([]string{"/a/", "/b/"}, true, true), want: []string{"other", "shared", "exclusive"}},
		"created by href":        {filter: list.Creating("/created/"), want: []string{"test"}},
		"created by PRN":         {filter: list.Creating("prn:created"), want: []string{"test"}},
		"created by none":        {filter: list.Creating("/a/"), want: []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, _ := rowsOf(t, s.Lists.Tasks, func(k taskstore.Task) string { return k.Name }, list.Query{Where: []list.Filter{tt.filter}})
			if !slices.Equal(got, tt.want) {
				t.Errorf("tasks %v, want %v", got, tt.want)
			}
		})
	}
}
