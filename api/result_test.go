package api_test

import (
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/pulp"
)

// TestResultsAreShownAsObjects runs the immediate tasks of a mirror's life, and compares their results with responses
// to GET.
func TestResultsAreShownAsObjects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.withWorker()
	do := func(method, path string, body any) map[string]any {
		t.Helper()
		r := w.expect(call{method: method, path: path, json: body}, http.StatusAccepted, "")
		object, _ := r.body.(map[string]any)
		href, _ := object["task"].(string)
		task := w.get(href)
		if task["state"] != "completed" {
			t.Fatalf("%s %s: task %v", method, path, task)
		}
		return task
	}
	made := func(task map[string]any) []string {
		var all []string
		for _, v := range task["created_resources"].([]any) {
			all = append(all, v.(string))
		}
		return all
	}
	create := func(path string, body any) string {
		t.Helper()
		return w.expect(call{method: http.MethodPost, path: path, json: body}, http.StatusCreated, "").Header.Get("Location")
	}
	same := func(name string, task map[string]any, href string) {
		t.Helper()
		want := w.get(href)
		if strings.Contains(href, "distributions/") { // without the host (compatibility.md#distributions)
			want = maps.Clone(want)
			want["registry_path"] = want["base_path"]
		}
		if diff := cmp.Diff(any(want), task["result"]); diff != "" {
			t.Errorf("%s: result (-GET +task):\n%s", name, diff)
		}
	}
	type fields = map[string]any
	latest := func(repo string) string { return w.get(repo)["latest_version_href"].(string) }
	tagsOf := func(repo string) []string {
		return w.results("content/container/tags/?ordering=name&repository_version="+latest(repo), "name")
	}
	expectTags := func(repo string, want ...string) {
		t.Helper()
		if got := tagsOf(repo); !cmp.Equal(got, append([]string{}, want...)) {
			t.Errorf("tags %v, want %v", got, want)
		}
	}

	remote := create(
		pulp.RemoteCollection,
		fields{"name": "acme/r", "url": "https://h.example", "upstream_name": "x", "password": "tellnobody"},
	)
	same("edit a remote", do(http.MethodPatch, remote, fields{"include_tags": []string{"v*"}, "password": nil}), remote)
	if got := w.get(remote)["includes"]; !cmp.Equal(got, any([]any{"v*"})) {
		t.Errorf("includes %v", got)
	}
	repo := create(pulp.ContainerCollection, fields{"name": "acme/mirror", "remote": remote})
	same(
		"edit a repository", do(http.MethodPatch, repo, fields{"description": "d", "pulp_labels": fields{"a": nil}}), repo,
	)

	task := do(
		http.MethodPost, repo+"copy_tags/",
		fields{"source_repository_version": latest(w.repoHref()), "names": []string{"latest", "multi"}},
	)
	if got := made(task); len(got) != 1 || got[0] != latest(repo) {
		t.Errorf("created resources %v", got)
	}
	expectTags(repo, "latest", "multi")
	task = do(http.MethodPost, repo+"tag/", fields{"tag": "stable", "digest": w.manifest})
	tagged := latest(repo)
	if got := made(task); len(got) != 2 || got[0] != tagged || !strings.HasPrefix(got[1], pulp.Root+pulp.TagCollection) {
		t.Errorf("created resources %v", got)
	}
	if got := made(do(http.MethodPost, repo+"tag/", fields{"tag": "stable", "digest": w.manifest})); len(got) != 0 {
		t.Errorf("the second time created %v, want nothing", got)
	}
	do(http.MethodPost, repo+"untag/", fields{"tag": "latest"})
	expectTags(repo, "multi", "stable")
	untagged := latest(repo)
	second := w.results("content/container/tags/?name=2.0", "pulp_href")[0]
	do(http.MethodPost, repo+"add/", fields{"content_units": []string{second}})
	expectTags(repo, "2.0", "multi", "stable")
	added := latest(repo)
	do(http.MethodPost, repo+"remove/", fields{"content_units": []string{second}})
	do(http.MethodPost, repo+"remove/", fields{"content_units": []string{"*"}})
	expectTags(repo)
	do(http.MethodPost, repo+"rollback/", fields{"version": added})
	expectTags(repo, "2.0", "multi", "stable")
	do(http.MethodPost, repo+"copy_tags/", fields{"source_repository_version": tagged, "names": []string{}})
	expectTags(repo, "2.0", "multi", "stable")
	task = do(http.MethodDelete, untagged, nil)
	if diff := cmp.Diff(any(fields{"core.RepositoryVersion": 1.0}), task["result"]); diff != "" {
		t.Errorf("delete a version: result (-want +got):\n%s", diff)
	}
	w.expect(
		call{path: untagged}, http.StatusNotFound, `{"detail":"No RepositoryVersion matches the given query."}`,
	)

	task = do(
		http.MethodPost, pulp.DistributionCollection,
		fields{"name": "acme/mirror", "base_path": "acme/mirror", "repository": repo, "private": true},
	)
	distribution := made(task)[0]
	same("create a distribution", task, distribution)
	same(
		"edit a distribution",
		do(http.MethodPatch, distribution, fields{"repository": nil, "repository_version": tagged}),
		distribution,
	)
	w.expect(call{method: http.MethodDelete, path: tagged}, http.StatusBadRequest, "")

	task = do(http.MethodPost, w.repoHref()+"migrate/", nil)
	migrated := pulp.RepositoryHref(pulp.Container, w.repo.Repository.ID)
	same("migrate", task, migrated)
	if got := made(task); len(got) != 1 || got[0] != migrated {
		t.Errorf("created resources %v", got)
	}
	w.expect(call{path: w.repoHref()}, http.StatusNotFound, "")

	for _, c := range []struct {
		path   string
		counts fields
	}{
		{path: remote, counts: fields{"container.ContainerRemote": 1.0}},
		{path: distribution, counts: fields{"container.ContainerDistribution": 1.0}},
		{path: repo, counts: fields{"container.ContainerRepository": 1.0}},
	} {
		if diff := cmp.Diff(any(c.counts), do(http.MethodDelete, c.path, nil)["result"]); diff != "" {
			t.Errorf("delete %s: result (-want +got):\n%s", c.path, diff)
		}
		w.expect(call{path: c.path}, http.StatusNotFound, "")
	}
	namespace := create(pulp.NamespaceCollection, fields{"name": "gone"})
	if got := do(
		http.MethodDelete, namespace, nil,
	)["result"]; !cmp.Equal(got, any(fields{"container.ContainerNamespace": 1.0})) {
		t.Errorf("delete a namespace: result %v", got)
	}
}

func TestRemovalsFromPushRepositories(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.withWorker()
	latest := func() string { return w.get(w.repoHref())["latest_version_href"].(string) }
	count := func(collection string) any {
		return w.get(collection + "?limit=1&repository_version=" + latest())["count"]
	}
	do := func(action, body string) {
		t.Helper()
		r := w.expect(call{method: http.MethodPost, path: w.repoHref() + action, json: body}, http.StatusAccepted, "")
		if task := w.get(r.body.(map[string]any)["task"].(string)); task["state"] != "completed" {
			t.Fatalf("task %v", task)
		}
	}
	before, manifests := latest(), count(pulp.ManifestCollection)
	if got := count(pulp.SignatureCollection); got != 2.0 {
		t.Fatalf("%v signatures", got)
	}
	do("remove_signatures/", `{"signed_with_key_id":"D1B86E06B4D88886"}`)
	if got := count(pulp.SignatureCollection); got != 0.0 {
		t.Errorf("%v signatures remain, want 0", got)
	}
	do("remove_image/", `{"digest":"`+string(w.manifest)+`"}`)
	if got := count(pulp.ManifestCollection); got != manifests.(float64)-1 {
		t.Errorf("%v manifests of %v", got, manifests)
	}
	do("rollback/", `{"version":"`+before+`"}`)
	if got := count(pulp.SignatureCollection); got != 2.0 {
		t.Errorf("%v signatures after the roll-back, want 2", got)
	}
}

// TestASyncShowsItsVersion proves that the result of a sync is its version, as in a response to GET.
func TestASyncShowsItsVersion(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	show, err := api.Results(t.Context(), m.store)
	if err != nil {
		t.Fatal(err)
	}
	v, err := m.store.Content.Version(t.Context(), m.full.ID, 1)
	if err != nil {
		t.Fatal(err)
	}
	got := m.expect(call{path: href(m.full) + "versions/1/"}, 200, "").raw
	if diff := cmp.Diff(got, encoded(t, show(v))); diff != "" {
		t.Errorf("result (-GET +task):\n%s", diff)
	}
}

// testDistributionsOutliveTheirRepository compares a distribution whose repository was deleted with a recording.
func testDistributionsOutliveTheirRepository(t *testing.T) {
	t.Parallel()
	m := newMirrors(t)
	m.withWorker()
	served := pulp.Href(
		pulp.DistributionCollection,
		m.serve(pulp.Distribution{Name: "acme/full", BasePath: "acme/full", RepositoryID: m.full.ID}).ID,
	)
	before := m.get(served)
	m.expect(call{method: http.MethodDelete, path: href(m.full)}, http.StatusAccepted, "")
	after := m.get(served)
	if before["repository"] != href(m.full) || after["repository"] != nil {
		t.Errorf("repository %v, then %v", before["repository"], after["repository"])
	}
	want, _ := golden(t, "103b-dist-after-repo-delete")
	compareShape(t, "103b-dist-after-repo-delete", want, after)
}

func TestOtherResultsAreNotShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	show, err := api.Results(t.Context(), w.store)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{
		nil, "text", pulp.RemoteSecrets{Password: ptr("tellnobody")}, &pulp.Remote{}, w.service, pulp.User{Hash: "x"},
	} {
		if got := show(v); got != nil {
			t.Errorf("%T is shown: %v, want nil", v, got)
		}
	}
	counts := map[string]int64{"core.RepositoryVersion": 1}
	if got := show(counts); !cmp.Equal(got, any(counts)) {
		t.Errorf("counts %v", got)
	}
}
