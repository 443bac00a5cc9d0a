package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
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
		"content/container/tags/?orphaned_for=1":       `{"errors":["Invalid Filter: 'orphaned_for'"]}`,
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

func TestTaskFilters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	repo, other := w.repoHref(), pulp.RepositoryHref(pulp.Container, pulp.NewID())
	make := func(name string, exclusive bool, href string) taskstore.Task {
		t.Helper()
		k, err := w.store.Tasks.CreateTask(
			t.Context(),
			taskstore.NewTask{
				Name: name, Args: struct{}{}, CID: "cid-" + name, Origin: taskstore.OriginUser, CreatedBy: 1,
				Resources: []taskstore.Resource{{Href: href, Exclusive: exclusive}},
			},
		)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	one := make("one", true, repo)
	make("two", false, repo)
	make("three", true, other)
	worker := pulp.NewID()
	k, err := w.store.Tasks.ClaimTask(t.Context(), worker, one.ID, nil, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	version := pulp.VersionHref(pulp.ContainerPush, w.repo.Repository.ID, w.signed.Number)
	gone := pulp.VersionHref(pulp.ContainerPush, w.repo.Repository.ID, 99)
	if err := w.store.Tasks.CompleteTask(
		t.Context(), &taskstore.Claim{TaskID: k.ID, Attempt: k.Attempt}, taskstore.Outcome{Created: []taskstore.Created{
			{Href: version, PRN: pulp.VersionPRN(w.signed.ID)}, {Href: gone, PRN: pulp.VersionPRN(pulp.NewID())},
		}},
	); err != nil {
		t.Fatal(err)
	}
	prn := pulp.PRN(pulp.PushCollection, w.repo.Repository.ID)
	for query, want := range map[string]string{
		"reserved_resources=" + repo:                          "two one",
		"reserved_resources=" + prn:                           "two one",
		"reserved_resources__in=" + prn + "," + other:         "three two one",
		"exclusive_resources=" + repo:                         "one",
		"shared_resources__in=" + repo + "," + other:          "two",
		"created_resources=" + version:                        "one",
		"created_resources=" + pulp.VersionPRN(w.signed.ID):   "one",
		"created_resources=" + repo:                           "",
		"worker=" + pulp.Href(pulp.WorkerCollection, worker):  "one",
		"state=waiting":                                       "three two",
		"state__in=completed,failed":                          "one",
		"state__ne=waiting":                                   "one",
		"name=two":                                            "two",
		"name__ne=two":                                        "three one",
		"name__in=one,two":                                    "two one",
		"logging_cid=cid-two":                                 "two",
		"logging_cid__contains=cid-t":                         "three two",
		"started_at__isnull=true":                             "three two",
		"finished_at__gt=2020-01-01T00:00":                    "one",
		"pulp_created__lt=2020-01-01":                         "",
		"pulp_created__range=2020-01-01,2099-01-01T00:00:00Z": "three two one",
		"parent_task=" + pulp.Href(pulp.TaskCollection, k.ID): "",
		"ordering=started_at":                                 "one three two",
		"ordering=-started_at":                                "three two one",
	} {
		t.Run(query, func(t *testing.T) {
			if got := strings.Join(w.results("tasks/?"+query, "name"), " "); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	if got, want := w.get(
		pulp.Href(pulp.TaskCollection, k.ID),
	)["created_resources"], []any{version, "<unavailable>"}; !cmp.Equal(got, any(want)) {
		t.Errorf("created_resources: %v, want %v", got, want)
	}
	if got, want := fmt.Sprint(
		w.results("tasks/?ordering=name", "reserved_resources_record"),
	), fmt.Sprintf("[[%s] [%s] [shared:%s]]", repo, other, repo); got != want {
		t.Errorf("reserved_resources_record: %s, want %s", got, want)
	}
	if got := w.get(pulp.Href(pulp.TaskCollection, k.ID))["worker"]; got != pulp.Href(pulp.WorkerCollection, worker) {
		t.Errorf("worker: %v", got)
	}
}

func TestContentIsFilteredByVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	version := func(n int64) string { return pulp.VersionHref(pulp.ContainerPush, w.repo.Repository.ID, n) }
	for path, want := range map[string]int{
		"tags/?repository_version=" + version(0):                                                                       0,
		"tags/?repository_version=" + version(2):                                                                       2,
		"tags/?repository_version_added=" + version(2):                                                                 1,
		"tags/?repository_version_removed=" + version(2):                                                               0,
		"manifests/?repository_version=" + version(1):                                                                  1,
		"manifests/?repository_version=" + version(4):                                                                  5,
		"manifests/?repository_version_added=" + version(4):                                                            3,
		"blobs/?repository_version=" + version(4):                                                                      8,
		"signatures/?repository_version=" + version(4):                                                                 0,
		"signatures/?repository_version=" + version(5):                                                                 1,
		"signatures/?repository_version_added=" + version(6):                                                           1,
		"signatures/?repository_version=" + pulp.VersionPRN(w.signed.ID):                                               1,
		"signatures/?manifest=" + string(w.manifest):                                                                   2,
		"signatures/?manifest=sha256:0":                                                                                0,
		"signatures/?key_id=D1B86E06B4D88886&name__contains=@":                                                         2,
		"signatures/?key_id__in=0000,D1B86E06B4D88886":                                                                 2,
		"tags/?media_type=" + url.QueryEscape(pulp.OCIIndex):                                                           1,
		"tags/?digest=" + string(w.manifest):                                                                           2,
		"tags/?name__in=latest,2.0,zzz":                                                                                2,
		"manifests/?media_type=" + url.QueryEscape(pulp.OCIIndex) + "&media_type=" + url.QueryEscape(pulp.OCIManifest): 5,
		"manifests/?is_bootable=true":                                                                                  0,
		"manifests/?is_flatpak=false":                                                                                  5,
		"manifests/?digest=" + string(w.manifest):                                                                      1,
		"blobs/?digest__in=" + string(w.manifest):                                                                      0,
		"blobs/?pulp_label_select=a":                                                                                   0,
		"blobs/?pulp_label_select=" + url.QueryEscape("!a"):                                                            8,
	} {
		t.Run(path, func(t *testing.T) {
			if got := len(w.results("content/container/"+path, "pulp_href")); got != want {
				t.Errorf("%d, want %d", got, want)
			}
		})
	}
}

// TestSummariesCountTheirLists proves that the list behind every href of a content summary has the counted length.
func TestSummariesCountTheirLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := w.store.Content.DeleteManifest(t.Context(), w.repo.Repository.ID, w.manifest); err != nil {
		t.Fatal(err)
	}
	followed := 0
	for _, v := range w.get(w.repoHref() + "versions/")["results"].([]any) {
		for relation, kinds := range v.(map[string]any)["content_summary"].(map[string]any) {
			for kind, n := range kinds.(map[string]any) {
				entry := n.(map[string]any)
				if got := w.get(entry["href"].(string))["count"]; got != entry["count"] {
					t.Errorf(
						"version %v, %s %s: count %v, listed %v", v.(map[string]any)["number"], relation, kind, entry["count"], got,
					)
				}
				followed++
			}
		}
	}
	if followed < 15 {
		t.Errorf("only %d summaries", followed)
	}
}
