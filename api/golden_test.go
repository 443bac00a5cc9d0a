package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/taskstore"
)

// exchange is a recorded exchange with the reference.
type exchange struct {
	Request struct {
		Line    string
		Headers map[string]string
		Body    json.RawMessage // a JSON string is sent decoded
	}
	Status  int
	Headers [][2]string
	Body    any
	// RawBody is the body with its fields in the recorded order.
	RawBody json.RawMessage `json:"-"`
}

// header returns the value of a recorded header, or an empty string.
func (e exchange) header(name string) string {
	for _, h := range e.Headers {
		if strings.EqualFold(h[0], name) {
			return h[1]
		}
	}
	return ""
}

// goldenDir has the recorded exchanges with the reference, one file each.
var goldenDir = filepath.Join("testdata", "golden")

// recording reads a recorded exchange.
func recording(t *testing.T, name string) exchange {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(goldenDir, name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var e exchange
	var bodies struct{ Body json.RawMessage }
	if err := errors.Join(json.Unmarshal(raw, &e), json.Unmarshal(raw, &bodies)); err != nil {
		t.Fatal(err)
	}
	e.RawBody = bodies.Body
	return e
}

// golden returns the body and the Allow header of a recorded answer.
func golden(t *testing.T, name string) (body any, allow string) {
	t.Helper()
	e := recording(t, name)
	return e.Body, e.header("Allow")
}

func testAnswersHaveTheReferencesShape(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	task, err := w.store.Tasks.CreateTask(t.Context(), taskstore.NewTask{
		Name: "pulp_container.app.tasks.sign.sign", Args: struct{}{}, Origin: taskstore.OriginUser, CreatedBy: 1, CID: "abc",
		Resources: []taskstore.Resource{{Href: w.repoHref(), Exclusive: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	claimed, err := w.store.Tasks.ClaimTask(t.Context(), pulp.NewID(), task.ID, nil, 1e9)
	if err != nil {
		t.Fatal(err)
	}
	made := taskstore.Created{Href: pulp.VersionHref(pulp.ContainerPush, w.repo.Repository.ID, w.signed.Number), PRN: pulp.VersionPRN(w.signed.ID)}
	if err := w.store.Tasks.CompleteTask(t.Context(), &taskstore.Claim{TaskID: task.ID, Attempt: claimed.Attempt}, taskstore.Outcome{Created: []taskstore.Created{made}}); err != nil {
		t.Fatal(err)
	}
	href := func(path, field string) string { return w.results(path, field)[0] }
	version := pulp.VersionHref(pulp.ContainerPush, w.repo.Repository.ID, w.signed.Number)
	for name, c := range map[string]call{
		"02-push-repo-list":              {path: "repositories/container/container-push/?name=acme/app"},
		"03-signing-services-list":       {path: "signing-services/?name=ctr-svc"},
		"03b-signing-service-get":        {path: w.serviceHref()},
		"04-push-repo-versions":          {path: w.repoHref() + "versions/"},
		"05-push-dist-list":              {path: "distributions/container/container/?base_path=acme/app"},
		"100b-dist-get":                  {path: href("distributions/container/container/", "pulp_href")},
		"12b-task-sign-completed":        {path: pulp.Href(pulp.TaskCollection, task.ID)},
		"13-repo-version-signed":         {path: version},
		"14-signatures-list":             {path: "content/container/signatures/?repository_version=" + version},
		"32-tags":                        {path: "content/container/tags/"},
		"33-manifests":                   {path: "content/container/manifests/"},
		"34-blobs":                       {path: "content/container/blobs/?limit=2"},
		"35-signature-get":               {path: href("content/container/signatures/", "pulp_href")},
		"36-manifest-get":                {path: href("content/container/manifests/?digest="+string(w.manifest), "pulp_href")},
		"38-repository-versions-generic": {path: "repository_versions/?limit=1"},
		"39-version0":                    {path: w.repoHref() + "versions/0/"},
		"40-workers":                     {path: "workers/"},
		"40b-worker":                     {path: href("workers/", "pulp_href")},
		"43-namespaces":                  {path: "pulp_container/namespaces/"},
		"44-contentguard":                {path: "contentguards/core/content_redirect/"},
		"46-distributions":               {path: "distributions/?limit=1"},
	} {
		t.Run(name, func(t *testing.T) {
			want, allow := golden(t, name)
			r := w.do(c)
			if r.StatusCode != http.StatusOK {
				t.Fatalf("%d %s", r.StatusCode, r.raw)
			}
			compareShape(t, name, want, r.body)
			// Countersign may allow fewer methods than the reference.
			for _, method := range strings.Split(r.Header.Get("Allow"), ", ") {
				if !strings.Contains(allow, method) && !strings.Contains(name, "worker") {
					t.Errorf("Allow: %s; the reference has %s", r.Header.Get("Allow"), allow)
				}
			}
		})
	}
}

func testStatusHasTheReferencesShape(t *testing.T) {
	t.Parallel()
	want, _ := golden(t, "01-status")
	w := newWorld(t)
	have := w.do(call{path: "status/", user: "-"}).body
	compareStatus := func(v any) any { // keeps the first element of each list; versions of components are compared below
		object := v.(map[string]any)
		for k, e := range object {
			if list, ok := e.([]any); ok && len(list) > 1 {
				object[k] = list[:1]
			}
		}
		return object
	}
	components := func(v any) string { return fmt.Sprint(v.(map[string]any)["versions"].([]any)[:2]) }
	if diff := cmp.Diff(components(want), components(have)); diff != "" {
		t.Errorf("components (-reference +ours):\n%s", diff)
	}
	delete(want.(map[string]any), "versions")
	delete(have.(map[string]any), "versions")
	delete(have.(map[string]any), "signing_services") // an extension of Countersign
	compareShape(t, "01-status", compareStatus(want), compareStatus(have))
}

// testErrorsAreTheReferences compares the bodies of errors with the recordings.
func testErrorsAreTheReferences(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	repo, absent := w.repoHref(), "01a20539-5d7d-7e4f-bae7-2b830c817fff"
	sign := func(body any) call { return call{method: http.MethodPost, path: repo + "sign/", json: body} }
	service := map[string]any{"manifest_signing_service": w.serviceHref()}
	with := func(name string, v any) map[string]any {
		m := maps.Clone(service)
		m[name] = v
		return m
	}
	for name, c := range map[string]struct {
		call   call
		status int
	}{
		"10-sign-missing-service":     {sign(map[string]any{}), 400},
		"10c-sign-bad-service-href":   {sign(map[string]any{"manifest_signing_service": pulp.Href(pulp.SigningServiceCollection, absent)}), 400},
		"10d-sign-garbage-service":    {sign(map[string]any{"manifest_signing_service": "abc"}), 400},
		"10e-sign-unknown-field":      {sign(with("foo", 1)), 400},
		"10f-sign-tags-not-list":      {sign(with("tags_list", "abc")), 400},
		"114d-future-base-path-blank": {sign(with("future_base_path", "")), 400},
		"118b-purge-bad": {call{
			method: http.MethodPost, path: "tasks/purge/", json: map[string]any{"finished_before": "zzz", "states": []string{"foo"}},
		}, 400},
		"20-404-task":                   {call{path: "tasks/" + absent + "/"}, 404},
		"20b-404-bad-uuid":              {call{path: "tasks/abc/"}, 404},
		"21-405-post-push-repo":         {call{method: http.MethodPost, path: pulp.PushCollection, json: map[string]string{"name": "x"}}, 405},
		"21b-405-delete-push-repo":      {call{method: http.MethodDelete, path: repo}, 405},
		"21c-delete-push-version":       {call{method: http.MethodDelete, path: repo + "versions/1/"}, 403},
		"21d-405-signing-service-post":  {call{method: http.MethodPost, path: "signing-services/", json: map[string]string{"name": "x"}}, 405},
		"22-401-noauth":                 {call{path: "tasks/", user: "-"}, 401},
		"22b-401-badpw":                 {call{path: "tasks/", user: "nobody"}, 401},
		"23-415":                        {call{method: http.MethodPost, path: repo + "sign/", json: "<x/>", kind: "text/xml"}, 415},
		"23c-json-list-body":            {sign("[1]"), 400},
		"23d-406":                       {call{path: repo, header: map[string]string{"Accept": "application/xml"}}, 406},
		"31-unknown-filter":             {call{path: "tasks/?bogus=1"}, 400},
		"31b-unknown-ordering":          {call{path: "tasks/?ordering=bogus"}, 400},
		"31g-q-bad":                     {call{path: "repositories/?q=name%3D%3Dx"}, 400},
		"31h-q-unknown":                 {call{path: "repositories/?q=bogus%3Dx"}, 400},
		"31l-href-in-bad":               {call{path: "repositories/?pulp_href__in=abc"}, 400},
		"31m-prn-in-bad":                {call{path: "repositories/?prn__in=abc"}, 400},
		"31n-fields-unknown":            {call{path: repo + "?fields=nonexistent"}, 200},
		"31o-bad-state":                 {call{path: "tasks/?state=foo"}, 400},
		"31s-repover-bad":               {call{path: "content/container/tags/?repository_version=foo"}, 400},
		"31v-date-bad":                  {call{path: "tasks/?pulp_created__gte=abc"}, 400},
		"39b-version-404":               {call{path: repo + "versions/99/"}, 404},
		"39c-repo-404":                  {call{path: pulp.RepositoryHref(pulp.ContainerPush, absent) + "versions/"}, 404},
		"94e-put-missing-name":          {call{method: http.MethodPut, path: repo, json: map[string]string{"description": "x"}}, 400},
		"94g-patch-remote-on-push":      {call{method: http.MethodPatch, path: repo, json: map[string]string{"remote": "/x/"}}, 400},
		"111e-signing-services-as-user": {call{path: "signing-services/", user: "carol"}, 403},
		"111f-tasks-as-user":            {call{path: "tasks/", user: "carol"}, 200},
		"126-sign-as-anon":              {call{method: http.MethodPost, path: repo + "sign/", json: service, user: "-"}, 401},
		"127b-label-op-bad":             {call{path: "repositories/?pulp_label_select=!a=b"}, 400},
	} {
		t.Run(name, func(t *testing.T) {
			want, allow := golden(t, name)
			r := w.do(c.call)
			if r.StatusCode != c.status {
				t.Errorf("status %d, want %d", r.StatusCode, c.status)
			}
			compareWhole(t, name, want, r.body)
			if got := r.Header.Get("Allow"); got != allow {
				t.Errorf("Allow: %s, want %s", got, allow)
			}
		})
	}
}
