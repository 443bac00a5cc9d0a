package list_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/storetest"
)

// listedNames returns what a query finds.
func listedNames(t *testing.T, s *store.Store, q list.Query) ([]string, int64) {
	t.Helper()
	if q.Limit == 0 {
		q.Limit = 100
	}
	found, count, err := s.Lists.Repositories(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, r := range found {
		names = append(names, r.Name)
	}
	return names, count
}

func TestFiltersNarrow(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	for i, name := range []string{"a/one", "a/two", "b/One"} {
		target, err := s.Catalog.PushTarget(t.Context(), name, pulp.ContainerPush)
		if err != nil {
			t.Fatal(err)
		}
		retain, value := int64(i), fmt.Sprint(i)
		edit := func(r *pulp.Repository) {
			r.Labels = pulp.Labels{"n": &value, "bare": nil}
			if i > 0 {
				r.RetainRepoVersions = &retain
			}
		}
		if _, err := s.Catalog.EditRepository(t.Context(), nil, pulp.ContainerPush, target.Repository.ID, edit); err != nil {
			t.Fatal(err)
		}
	}
	is := func(op list.Op, v any) list.Filter { return list.Where("name", op, v) }
	for what, c := range map[string]struct {
		filter list.Filter
		want   []string // newest first
	}{
		"equal":                               {is(list.Equal, "a/one"), []string{"a/one"}},
		"not equal":                           {is(list.NotEqual, "a/one"), []string{"b/One", "a/two"}},
		"equal, folded":                       {is(list.EqualFold, "A/ONE"), []string{"a/one"}},
		"contains":                            {is(list.Contains, "/o"), []string{"a/one"}},
		"contains, folded":                    {is(list.ContainsFold, "/O"), []string{"b/One", "a/one"}},
		"a percent sign is no wild card":      {is(list.Contains, "%"), []string{}},
		"prefix":                              {is(list.HasPrefix, "a/"), []string{"a/two", "a/one"}},
		"prefix, folded":                      {is(list.HasPrefixFold, "B/o"), []string{"b/One"}},
		"a regular expression":                {is(list.Match, "o$|^b"), []string{"b/One", "a/two"}},
		"a quote is only a quote":             {is(list.Equal, "' OR 1=1 --"), []string{}},
		"one of several":                      {list.OneOf("name", []string{"a/one", "b/One", "x"}), []string{"b/One", "a/one"}},
		"one of none":                         {list.OneOf("name", nil), []string{}},
		"less":                                {list.Where("retain_repo_versions", list.Less, 2), []string{"a/two"}},
		"null":                                {list.IsNull("retain_repo_versions", true), []string{"a/one"}},
		"not null":                            {list.IsNull("retain_repo_versions", false), []string{"b/One", "a/two"}},
		"not, of a null":                      {list.Not(list.Where("retain_repo_versions", list.Equal, 1)), []string{"b/One", "a/one"}},
		"any":                                 {list.Any(is(list.Equal, "a/one"), is(list.Equal, "a/two")), []string{"a/two", "a/one"}},
		"any of nothing":                      {list.Any(), []string{}},
		"all of nothing":                      {list.All(), []string{"b/One", "a/two", "a/one"}},
		"a label is there":                    {list.Label("bare", list.LabelPresent, ""), []string{"b/One", "a/two", "a/one"}},
		"a label is absent":                   {list.Label("n", list.LabelAbsent, ""), []string{}},
		"a label has a value":                 {list.Label("n", list.LabelIs, "1"), []string{"a/two"}},
		"a label has another value":           {list.Label("n", list.LabelIsNot, "1"), []string{"b/One", "a/one"}},
		"a label without a value has another": {list.Label("bare", list.LabelIsNot, "1"), []string{"b/One", "a/two", "a/one"}},
		"a label's value contains":            {list.Label("n", list.LabelContains, "2"), []string{"b/One"}},
		"visible to the owner of a namespace": {list.VisibleTo("a"), []string{"b/One", "a/two", "a/one"}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			names, count := listedNames(t, s, list.Query{Where: []list.Filter{c.filter}})
			if diff := cmp.Diff(c.want, names); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
			if count != int64(len(c.want)) {
				t.Errorf("count %d, want %d", count, len(c.want))
			}
		})
	}
}

func TestPagesCoverAListOnce(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	want := []string{}
	for i := range 7 {
		name := fmt.Sprintf("r/%d", i)
		if _, err := s.Catalog.PushTarget(t.Context(), name, pulp.ContainerPush); err != nil {
			t.Fatal(err)
		}
		want = append(want, name)
	}
	var got []string
	for offset := 0; offset < 9; offset += 3 {
		names, count := listedNames(t, s, list.Query{Order: []list.Order{{Field: "name"}}, Limit: 3, Offset: offset})
		if count != 7 {
			t.Errorf("count %d behind %d", count, offset)
		}
		got = append(got, names...)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if names, count := listedNames(t, s, list.Query{Limit: 3, Offset: 100}); len(names) != 0 || count != 7 {
		t.Errorf("behind the end: %v, %d", names, count)
	}
}

func TestAFieldThatAListHasNotIsAnError(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	for what, q := range map[string]list.Query{
		"in a filter":    {Where: []list.Filter{list.Where("name; DROP TABLE task", list.Equal, "x")}, Limit: 1},
		"in the order":   {Order: []list.Order{{Field: "1; DROP TABLE task"}}, Limit: 1},
		"another list's": {Where: []list.Filter{list.Where("base_path", list.Equal, "x")}, Limit: 1},
	} {
		if _, _, err := s.Lists.Tasks(t.Context(), q); err == nil || !strings.Contains(err.Error(), "no field") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestPrivateRepositoriesAreSeenByTheirNamespace(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	target, err := s.Catalog.PushTarget(t.Context(), "acme/secret", pulp.ContainerPush)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Content.InTx(t.Context(), func(x *content.Tx) error {
		_, err := x.Exec(`UPDATE distribution SET private = TRUE WHERE id = $1`, target.Distribution.ID)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	b := pulp.Blob{Digest: digest.FromString("x"), Size: 1, Data: []byte("x"), Inline: true}
	if err := s.Content.CommitBlob(t.Context(), target.Repository.ID, b, "", 0); err != nil {
		t.Fatal(err)
	}
	m := pulp.Manifest{
		MediaType: pulp.OCIManifest, SchemaVersion: 2, Payload: []byte("m"), Digest: digest.FromString("m"), Type: "image",
		Config: &pulp.Descriptor{Digest: b.Digest}, Layers: []pulp.Descriptor{{Digest: b.Digest}},
	}
	if _, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: target.Repository.ID, Manifest: m, Tags: []string{"v1"}}); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]int64{"acme": 1, "carol": 0} {
		q := list.Query{Where: []list.Filter{list.VisibleTo(user)}, Limit: 10}
		counts := map[string]int64{}
		note := func(what string, n int64, err error) {
			if err != nil {
				t.Fatal(what, err)
			}
			counts[what] = n
		}
		_, n, err := s.Lists.Repositories(t.Context(), q)
		note("repositories", n, err)
		_, n, err = s.Lists.Distributions(t.Context(), q)
		note("distributions", n, err)
		_, n, err = s.Lists.Namespaces(t.Context(), q)
		note("namespaces", n, err)
		_, n, err = s.Lists.Tags(t.Context(), q)
		note("tags", n, err)
		_, n, err = s.Lists.Manifests(t.Context(), q)
		note("manifests", n, err)
		_, n, err = s.Lists.Blobs(t.Context(), q)
		note("blobs", n, err)
		_, n, err = s.Lists.Signatures(t.Context(), q)
		note("signatures", n+want, err) // there is none
		for what, n := range counts {
			if n != want {
				t.Errorf("%s sees %d %s, want %d", user, n, what, want)
			}
		}
	}
}

func TestManifestPartsNameWhatIsThere(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	target, err := s.Catalog.PushTarget(t.Context(), "a/b", pulp.ContainerPush)
	if err != nil {
		t.Fatal(err)
	}
	both := pulp.Blob{Digest: digest.FromString("both"), Size: 4, Data: []byte("both"), Inline: true}
	if err := s.Content.CommitBlob(t.Context(), target.Repository.ID, both, "", 0); err != nil {
		t.Fatal(err)
	}
	image := pulp.Manifest{
		MediaType: pulp.OCIManifest, SchemaVersion: 2, Payload: []byte("i"), Digest: digest.FromString("i"), Type: "image",
		Config: &pulp.Descriptor{Digest: both.Digest},
		Layers: []pulp.Descriptor{
			{Digest: both.Digest}, {Digest: both.Digest}, {Digest: digest.FromString("foreign"), URLs: []string{"https://elsewhere.example/"}},
		},
	}
	index := pulp.Manifest{
		MediaType: pulp.OCIIndex, SchemaVersion: 2, Payload: []byte("x"), Digest: digest.FromString("x"), Type: "index",
		Children: []pulp.Descriptor{{Digest: digest.FromString("absent")}, {Digest: image.Digest}},
	}
	for tag, m := range map[string]pulp.Manifest{"image": image, "index": index} {
		if _, err := s.Content.PutManifest(t.Context(), content.PutManifest{RepositoryID: target.Repository.ID, Manifest: m, Tags: []string{tag}}); err != nil {
			t.Fatal(err)
		}
	}
	found, _, err := s.Lists.Manifests(t.Context(), list.Query{Order: []list.Order{{Field: "digest"}}, Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	ids := map[digest.Digest]string{}
	for _, m := range found {
		ids[m.Digest] = m.ID
		if len(m.Payload) != 0 {
			t.Error("a list carries payloads")
		}
	}
	parts, err := s.Lists.ManifestParts(t.Context(), []string{ids[image.Digest], ids[index.Digest]}, "", true, true)
	if err != nil {
		t.Fatal(err)
	}
	blobs, _, err := s.Lists.Blobs(t.Context(), list.Query{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]list.ManifestParts{
		ids[image.Digest]: {Config: blobs[0].ID, Layers: []string{blobs[0].ID}},
		ids[index.Digest]: {Children: []string{ids[image.Digest]}},
	}
	if diff := cmp.Diff(want, parts); diff != "" {
		t.Errorf("parts (-want +got):\n%s", diff)
	}
}
