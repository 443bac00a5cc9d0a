package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/pulp"
)

func TestPagesLinkToEachOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"b/1", "b/2", "b/3", "b/4"} { // five repositories with acme/app
		w.target(name)
	}
	base := w.server.URL + pulp.Root + "repositories/"
	for name, c := range map[string]struct {
		query          string
		header         map[string]string
		results        int
		next, previous string // empty: null
	}{
		"one page":       {query: "", results: 5},
		"the first page": {query: "limit=2", results: 2, next: base + "?limit=2&offset=2"},
		"a page between": {
			query: "limit=2&offset=2", results: 2, next: base + "?limit=2&offset=4", previous: base + "?limit=2",
		},
		"the last page": {
			query: "limit=2&offset=4", results: 1, previous: base + "?limit=2&offset=2",
		},
		"other parameters": {
			query: "offset=1&limit=1&fields=name,prn", results: 1, next: base + "?fields=name%2Cprn&limit=1&offset=2",
			previous: base + "?fields=name%2Cprn&limit=1",
		},
		"after the end":                {query: "offset=999", results: 0, previous: base + "?limit=100&offset=899"},
		"a limit of 0":                 {query: "limit=0", results: 5},
		"a limit that is not a number": {query: "limit=abc&offset=x", results: 5},
		"negative numbers":             {query: "limit=-1&offset=-4", results: 5},
		"a limit that overflows":       {query: "limit=999999999999999999999", results: 5},
		"an offset that is too large": {
			query: "limit=1&offset=9223372036854775807", results: 0, previous: base + "?limit=1&offset=1099511627775",
		},
		"the scheme from a reverse proxy": {
			query: "limit=4", header: map[string]string{"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"},
			results: 4, next: strings.Replace(base, "http:", "https:", 1) + "?limit=4&offset=4",
		},
		"an invalid scheme from a reverse proxy": {
			query: "limit=4", header: map[string]string{"X-Forwarded-Proto": "javascript"}, results: 4,
			next: base + "?limit=4&offset=4",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.do(call{path: "repositories/?" + c.query, header: c.header})
			list, ok := r.body.(map[string]any)
			if r.StatusCode != http.StatusOK || !ok {
				t.Fatalf("%d %s", r.StatusCode, r.raw)
			}
			null := func(s string) any {
				if s == "" {
					return nil
				}
				return s
			}
			got := map[string]any{
				"count": list["count"], "next": list["next"], "previous": list["previous"], "results": len(list["results"].([]any)),
			}
			want := map[string]any{"count": 5.0, "next": null(c.next), "previous": null(c.previous), "results": c.results}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestFiltersAndOrderings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.target("b/one")
	w.target("b/Two")
	w.target("c/one")
	env, bare := "prod", (*string)(nil)
	retain := int64(3)
	if _, err := w.store.Catalog.EditRepository(
		t.Context(), nil, pulp.ContainerPush, w.target("b/one").Repository.ID, func(r *pulp.Repository) {
			r.Labels, r.RetainRepoVersions = pulp.Labels{"env": &env, "bare": bare}, &retain
		},
	); err != nil {
		t.Fatal(err)
	}
	b := pulp.RepositoryHref(pulp.ContainerPush, w.target("b/one").Repository.ID)
	tagHref := w.results("content/container/tags/?name=2.0", "pulp_href")[0]
	q := url.QueryEscape
	for query, want := range map[string]string{ // names, newest first unless sorted
		"":                                    "c/one b/Two b/one acme/app",
		"ordering=name":                       "acme/app b/Two b/one c/one",
		"ordering=-name":                      "c/one b/one b/Two acme/app",
		"ordering=pulp_created":               "acme/app b/one b/Two c/one",
		"ordering=pk":                         "acme/app b/one b/Two c/one",
		"ordering=retain_repo_versions,-name": "b/one c/one b/Two acme/app",
		"ordering=-retain_repo_versions":      "c/one b/Two acme/app b/one",
		"ordering=name,name,-name":            "acme/app b/Two b/one c/one",
		"name=b/one":                          "b/one",
		"name=":                               "c/one b/Two b/one acme/app",
		"name=x&name=b/one":                   "b/one",
		"name__in=b/one,c/one,zzz":            "c/one b/one",
		"name__contains=one":                  "c/one b/one",
		"name__icontains=TWO":                 "b/Two",
		"name__iexact=B/TWO":                  "b/Two",
		"name__startswith=b/":                 "b/Two b/one",
		"name__istartswith=B/T":               "b/Two",
		"name__regex=" + q("^b/o"):            "b/one",
		"name__iregex=" + q("^B/(t|x)"):       "b/Two",
		"retain_repo_versions=3":              "b/one",
		"retain_repo_versions__gt=3":          "",
		"retain_repo_versions__ne=4":          "b/one",
		"retain_repo_versions__range=1,3":     "b/one",
		"retain_repo_versions__isnull=true&name__startswith=b": "b/Two",
		"retain_checkpoints__isnull=false":                     "",
		"remote=null&name=b/one":                               "b/one",
		"remote=&name=b/one":                                   "b/one",
		"remote=" + q(b):                                       "",
		"pulp_label_select=env":                                "b/one",
		"pulp_label_select=env=prod":                           "b/one",
		"pulp_label_select=env!=prod":                          "",
		"pulp_label_select=env~RO,bare":                        "b/one",
		"pulp_label_select=" + q("!env"):                       "c/one b/Two acme/app",
		"pulp_href__in=" + q(b):                                "b/one",
		"prn__in=" + q("prn:container.containerpushrepository:"+b[len(b)-37:len(b)-1]): "b/one",
		"pulp_id__in=" + b[len(b)-37:len(b)-1]:                                         "b/one",
		"with_content=" + q(tagHref):                                                   "acme/app",
		"latest_with_content=" + q(tagHref):                                            "acme/app",
		"q=" + q(`name="b/one" OR (name__contains=one AND NOT name="b/one")`):          "c/one b/one",
		"q=" + q(`NOT name__startswith=b AND NOT name="acme/app"`):                     "c/one",
		"q=" + q(`name__in="b/one,c/one" AND name__contains="c"`):                      "c/one",
	} {
		t.Run(query, func(t *testing.T) {
			got := strings.Join(w.results(pulp.PushCollection+"?"+query, "name"), " ")
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestErrorsNameTheListParameter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	q := url.QueryEscape
	for path, want := range map[string]string{
		"tasks/?bogus=1":                               `{"errors":["Invalid Filter: 'bogus'"]}`,
		"tasks/?name__icontains=x":                     `{"errors":["Invalid Filter: 'name__icontains'"]}`,
		"tasks/?created_by=1":                          `{"errors":["Invalid Filter: 'created_by'"]}`,
		"signing-services/?name__contains=x":           `{"errors":["Invalid Filter: 'name__contains'"]}`,
		"contentguards/core/content_redirect/?bogus=1": `{"errors":["Invalid Filter: 'bogus'"]}`,
		"content/container/tags/?orphaned_for=x":       `{"orphaned_for":["Enter a number."]}`,
		"tasks/?ordering=-args":                        `{"ordering":["Select a valid choice. -args is not one of the available choices."]}`,
		"tasks/?state__in=running,nope":                `{"state__in":["Select a valid choice. nope is not one of the available choices."]}`,
		"tasks/?started_at__range=2026-01-01":          `{"started_at__range":["Range query expects two values."]}`,
		"tasks/?started_at__isnull=perhaps":            `{"started_at__isnull":["Select a valid choice. perhaps is not one of the available choices."]}`,
		"repositories/?name__regex=" + q("(") + "":     `{"name__regex":["Enter a valid regular expression."]}`,
		"repositories/?retain_repo_versions=abc":       `{"retain_repo_versions":["Enter a number."]}`,
		"repositories/?pulp_type=file.file":            `{"pulp_type":["Select a valid choice. file.file is not one of the available choices."]}`,
		"repositories/?pulp_label_select=" + q("a)b"):  `["Invalid search term: 'a)b'."]`,
		"repositories/?q=" + q("q=x"):                  `{"q":["You cannot use 'q' in complex filtering."]}`,
		"repositories/?q=" + q("ordering=x"):           `{"q":["An ordering filter cannot be used in complex filtering."]}`,
		"repositories/?q=" + q(
			strings.Repeat("name=a OR ", 8)+"name=b",
		): `{"q":["Filter expression exceeds allowed complexity."]}`,
		"repositories/?q=" + q(strings.Repeat("(", 5000)): `{"q":["Syntax error in expression."]}`,
		"repositories/?pulp_id__in=abc":                   `{"pulp_id__in":["“abc” is not a valid UUID."]}`,
		"repositories/?%zz=1":                             `{"errors":["The query string is malformed."]}`,
		w.repoHref() + "versions/?pulp_id__in=x":          `{"errors":["Invalid Filter: 'pulp_id__in'"]}`,
		"content/container/tags/?repository_version=" + w.repoHref() + "versions/99/": fmt.Sprintf(
			`["URI %sversions/99/ not found for repositoryversion."]`, w.repoHref()),
		"content/container/tags/?repository_version=" + w.repoHref(): fmt.Sprintf(
			`["URI %s not found for repositoryversion."]`, w.repoHref(),
		),
	} {
		t.Run(path, func(t *testing.T) { w.expect(call{path: path}, http.StatusBadRequest, want) })
	}
}

func TestSelectionOfFields(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	name := `"name":"acme/app"`
	w.expect(call{path: w.repoHref() + "?fields=name"}, 200, "{"+name+"}")
	w.expect(
		call{path: w.repoHref() + "?fields=name,bogus&fields=retain_repo_versions"}, 200,
		"{"+name+`,"retain_repo_versions":null}`,
	)
	w.expect(call{path: w.repoHref() + "?fields=name,prn&exclude_fields=prn"}, 200, "{"+name+"}")
	w.expect(
		call{path: "repositories/?fields=name"}, 200, `{"count":1,"next":null,"previous":null,"results":[{`+name+`}]}`,
	)
	if got := w.get(
		w.repoHref() + "?exclude_fields=prn,pulp_created,pulp_last_updated",
	); len(got) != 9 || got["prn"] != nil {
		t.Errorf("exclude_fields left %v", got)
	}
}
