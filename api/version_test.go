package api_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/pulp"
)

// TestAVersionIsNotItsRepository proves that the href of a version, which begins with that of its repository, is no
// reference to the repository.
func TestAVersionIsNotItsRepository(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	m.serve(pulp.Distribution{Name: "acme/full", BasePath: "acme/full", RepositoryID: m.full.ID})
	version := href(m.full) + "versions/0/"
	const otherKind = `["Invalid hyperlink - Incorrect URL match."]`
	before := len(m.dispatcher.specs)
	m.expect(
		call{
			method: http.MethodPost, path: pulp.DistributionCollection,
			json: `{"name":"n","base_path":"acme/n","repository":"` + version + `"}`,
		},
		400, `{"repository":`+otherKind+`}`,
	)
	m.expect(
		call{method: http.MethodPost, path: href(m.empty) + "copy_tags/", json: `{"source_repository":"` + version + `"}`},
		400, `{"source_repository":`+otherKind+`}`,
	)
	if len(m.dispatcher.specs) != before {
		t.Error("a task was started")
	}
	for _, path := range []string{
		"repositories/?pulp_href__in=", pulp.ContainerCollection + "?pulp_href__in=",
		pulp.DistributionCollection + "?repository=", "distributions/?repository__in=",
	} {
		if got := m.results(path+version, "name"); len(got) > 0 {
			t.Errorf("%s<version>: %v, want none", path, got)
		}
		if got := m.results(path+version+","+href(m.full), "name"); !cmp.Equal(got, []string{"acme/full"}) {
			t.Errorf("%s<version>,<repository>: %v", path, got)
		}
	}
}

func TestVersionsAreFiltered(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	v := func(n string) string { return href(m.full) + "versions/" + n + "/" }
	tag := m.results("content/container/tags/?name=multi", "pulp_href")[0]
	if _, err := m.store.Content.RemoveAll(t.Context(), nil, m.full.ID); err != nil {
		t.Fatal(err)
	}
	own := href(m.full) + "versions/"
	prn := m.results(own+"?number=1", "prn")[0]
	for filter, want := range map[string][]string{
		"":                         {v("2"), v("1"), v("0")},
		"?ordering=number":         {v("0"), v("1"), v("2")},
		"?number=1":                {v("1")},
		"?number__range=1,2":       {v("2"), v("1")},
		"?number__gt=1":            {v("2")},
		"?content=" + tag:          {v("1")},
		"?content__in=" + tag:      {v("1")},
		"?prn__in=" + prn:          {v("1")},
		"?pulp_href__in=" + v("1"): {v("1")},
		"?pulp_href__in=" + v("0") + "," + v("2") + "," + v("7"):   {v("2"), v("0")},
		"?pulp_href__in=" + href(m.full):                           {}, // not a version
		"?pulp_href__in=" + m.repoHref() + "versions/1/":           {}, // of another repository
		"?pulp_created__gt=2020-01-01&number=0":                    {v("0")},
		"?pulp_created__lt=2020-01-01":                             {},
		"?content=" + pulp.Href(pulp.TagCollection, pulp.NewID()):  {},
		"?q=" + url.QueryEscape("number=0 OR content="+quote(tag)): {v("1"), v("0")},
	} {
		if got := m.results(own+filter, "pulp_href"); !cmp.Equal(got, want) {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
	}
	m.expect(call{path: own + "?content=abc"}, 400, `["URI not valid: abc"]`)
	m.expect(call{path: own + "?pulp_id__in=abc"}, 400, `{"errors":["Invalid Filter: 'pulp_id__in'"]}`)
	m.expect(call{path: own, user: "carol"}, 404, `{"detail":"No ContainerRepository matches the given query."}`)
	if got := m.results(
		"repository_versions/?pulp_href__in="+v("1")+","+m.repoHref()+"versions/1/&ordering=pulp_created", "number",
	); !cmp.Equal(got, []string{"1", "1"}) {
		t.Errorf("of all repositories: %v", got)
	}
	if r := m.do(
		call{path: "repository_versions/?pulp_href__in=" + v("1"), user: "carol"},
	); r.body.(map[string]any)["count"] != 0.0 {
		t.Errorf("carol sees %s", r.raw)
	}
}

func quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"` }
