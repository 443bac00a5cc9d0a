package api_test

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
)

func TestEveryResponseHasTheCommonHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for label, c := range map[string]call{
		"a list":                {path: "tasks/"},
		"no credentials":        {path: "tasks/", user: "-"},
		"an unknown filter":     {path: "tasks/?bogus=1"},
		"an unknown path":       {path: "nothing/"},
		"a missing final slash": {path: "tasks"},
		"a wrong method":        {method: http.MethodPost, path: "tasks/"},
		"a HEAD":                {method: http.MethodHead, path: "tasks/"},
	} {
		r := w.do(c)
		for name, want := range map[string]string{
			"Vary": "Accept", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
			"Cross-Origin-Opener-Policy": "same-origin", "Access-Control-Expose-Headers": "Correlation-ID",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: %s: %q, want %q", label, name, got, want)
			}
		}
		if id := r.Header.Get("Correlation-ID"); len(id) != 32 {
			t.Errorf("%s: Correlation-ID %q", label, id)
		}
		if kind := r.Header.Get("Content-Type"); kind != "application/json" && r.ContentLength != 0 {
			t.Errorf("%s: Content-Type %q", label, kind)
		}
	}
	if got := w.do(
		call{path: "tasks/", header: map[string]string{"Correlation-ID": "my-cid-1"}},
	).Header.Get("Correlation-ID"); got != "my-cid-1" {
		t.Errorf("Correlation-ID %q", got)
	}
}

func TestMethodsAndPaths(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const root = pulp.Root
	for name, c := range map[string]struct {
		call     call
		status   int
		location string
		allow    string
	}{
		"HEAD of a path with GET": {
			call: call{method: "HEAD", path: "tasks/"}, status: 200, allow: "GET, HEAD, OPTIONS",
		},
		"HEAD of a path without GET": {
			call: call{method: "HEAD", path: "tasks/purge/"}, status: 405, allow: "POST, OPTIONS",
		},
		"OPTIONS": {
			call: call{method: "OPTIONS", path: "tasks/"}, status: 200, allow: "GET, HEAD, OPTIONS",
		},
		"GET of a path without GET": {call: call{path: "tasks/purge/"}, status: 405, allow: "POST, OPTIONS"},
		"TRACE": {
			call: call{method: "TRACE", path: "tasks/"}, status: 405, allow: "GET, HEAD, OPTIONS",
		},
		"an unknown method": {
			call: call{method: "PROPFIND", path: "tasks/"}, status: 405, allow: "GET, HEAD, OPTIONS",
		},
		"GET without the slash": {
			call: call{path: "tasks?limit=1"}, status: 301, location: root + "tasks/?limit=1",
		},
		"POST without the slash": {
			call: call{method: "POST", path: "tasks/purge"}, status: 301, location: root + "tasks/purge/",
		},
		"an object without the slash": {
			call: call{path: strings.TrimSuffix(w.repoHref(), "/")}, status: 301, location: w.repoHref(),
		},
		"a version without the slash": {
			call: call{path: w.repoHref() + "versions/0"}, status: 301, location: w.repoHref() + "versions/0/",
		},
		"an unknown path":                   {call: call{path: "nothing/"}, status: 404},
		"an unknown path without the slash": {call: call{path: "nothing"}, status: 404},
		"two slashes": {
			call: call{path: "tasks//"}, status: 404, allow: "GET, PATCH, DELETE, HEAD, OPTIONS",
		},
		"another host's path": {call: call{path: "//evil.example/pulp/api/v3/tasks"}, status: 404},
		"the root":            {call: call{path: "/pulp/"}, status: 404},
		"an action of other types": {
			call: call{method: "POST", path: w.repoHref() + "set_label/", json: "{}"}, status: 404,
		},
		"a version that is not a number": {
			call: call{path: w.repoHref() + "versions/abc/"}, status: 404, allow: "GET, DELETE, HEAD, OPTIONS",
		},
		"a negative version": {
			call: call{path: w.repoHref() + "versions/-1/"}, status: 404, allow: "GET, DELETE, HEAD, OPTIONS",
		},
		"a push repository as the other type": {
			call: call{path: pulp.RepositoryHref(pulp.Container, w.repo.Repository.ID)}, status: 404,
			allow: "GET, PUT, PATCH, DELETE, HEAD, OPTIONS",
		},
		"a tag as a manifest": {
			call: call{path: pulp.Href(pulp.ManifestCollection, w.repo.Repository.ID)}, status: 404, allow: "GET, HEAD, OPTIONS",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.do(c.call)
			if r.StatusCode != c.status || r.Header.Get("Location") != c.location || r.Header.Get("Allow") != c.allow {
				t.Errorf("got %d, Location %q, Allow %q", r.StatusCode, r.Header.Get("Location"), r.Header.Get("Allow"))
			}
		})
	}
	w.expect(call{path: pulp.RepositoryHref(pulp.ContainerPush, strings.ToUpper(w.repo.Repository.ID))}, 200, "")
	if r := w.do(call{method: http.MethodHead, path: w.repoHref()}); r.ContentLength < 100 || r.raw != "" {
		t.Errorf("HEAD: Content-Length %d, body %q", r.ContentLength, r.raw)
	}
}

func TestAcceptHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for accept, status := range map[string]int{
		"": 200, "*/*": 200, "application/json": 200, "application/json; indent=4": 200, "text/html,application/xhtml+xml": 200,
		"application/xml": 406, "image/png, application/yaml": 406, "text/css, */*;q=0.1": 200, "APPLICATION/JSON": 200,
		"application/json;q=0": 406, "*/*;q=0": 406, "application/*;q=0, text/html;q=0, */*": 406, "application/*": 200, "text/*": 200, " , ": 200,
	} {
		if r := w.do(call{path: "workers/", header: map[string]string{"Accept": accept}}); r.StatusCode != status {
			t.Errorf("Accept %q: %d, want %d", accept, r.StatusCode, status)
		}
	}
	w.expect(call{path: "tasks/?format=json&limit=1"}, 200, "")
}

func TestPermissions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.target("b/secret")
	w.hide("b/secret")
	secret := w.target("b/secret")
	w.put(secret, pulp.Manifest{MediaType: pulp.OCIIndex, Payload: []byte("secret"), Type: "index"}, "hidden")
	private := pulp.Href(pulp.DistributionCollection, secret.Distribution.ID)
	version := pulp.VersionHref(pulp.ContainerPush, secret.Repository.ID, 1)
	public := pulp.Href(pulp.DistributionCollection, w.repo.Distribution.ID)
	namespace := pulp.Href(pulp.NamespaceCollection, w.repo.Distribution.NamespaceID)
	for name, c := range map[string]struct {
		call   call
		status int
		body   string
	}{
		"anonymous, the status": {call: call{path: "status/", user: "-"}, status: 200},
		"anonymous, livez":      {call: call{path: "livez/", user: "-"}, status: 200},
		"anonymous, readyz":     {call: call{path: "readyz/", user: "-"}, status: 200},
		"anonymous, tasks": {
			call: call{path: "tasks/", user: "-"}, status: 401,
			body: `{"detail":"Authentication credentials were not provided."}`,
		},
		"anonymous, a wrong method": {
			call: call{method: "DELETE", path: "tasks/", user: "-"}, status: 401,
		},
		"an unknown user": {
			call: call{path: "tasks/", user: "mallory"}, status: 401, body: `{"detail":"Invalid username/password."}`,
		},
		"a user, signing services": {
			call: call{path: w.serviceHref(), user: "carol"}, status: 403,
			body: `{"detail":"You do not have permission to perform this action."}`,
		},
		"a user, a public repository": {
			call: call{path: w.repoHref(), user: "carol"}, status: 403,
			body: `{"detail":"You do not have permission to perform this action."}`,
		},
		"a user, its versions":            {call: call{path: w.repoHref() + "versions/", user: "carol"}, status: 403},
		"a user, a version of it":         {call: call{path: w.repoHref() + "versions/1/", user: "carol"}, status: 403},
		"a user, verifying it":            {call: call{method: "POST", path: w.repoHref() + "verify/", user: "carol"}, status: 403},
		"a user, its roles":               {call: call{path: w.repoHref() + "my_permissions/", user: "carol"}, status: 403},
		"a user, its distribution":        {call: call{path: public, user: "carol"}, status: 403},
		"a user, deleting that":           {call: call{method: "DELETE", path: public, user: "carol"}, status: 403},
		"a user, its namespace":           {call: call{path: namespace, user: "carol"}, status: 200},
		"a user, deleting the namespace":  {call: call{method: "DELETE", path: namespace, user: "carol"}, status: 403},
		"a user, its content":             {call: call{path: "content/container/tags/?repository_version=" + w.repoHref() + "versions/1/", user: "carol"}, status: 200},
		"its owner, reading it":           {call: call{path: w.repoHref(), user: "acme"}, status: 200},
		"its owner, reading its versions": {call: call{path: w.repoHref() + "versions/1/", user: "acme"}, status: 200},
		"a user, editing it": {
			call: call{method: "PATCH", path: w.repoHref(), user: "carol", json: `{"description":"x"}`}, status: 403,
		},
		"its owner, editing it": {
			call: call{method: "PATCH", path: w.repoHref(), user: "acme", json: `{"description":"x"}`}, status: 202,
		},
		"its owner, renaming it": {
			call: call{method: "PATCH", path: w.repoHref(), user: "acme", json: `{"name":"acme/better"}`}, status: 202,
		},
		"its owner, renaming it into another namespace": {
			call: call{method: "PATCH", path: w.repoHref(), user: "acme", json: `{"name":"b/evil"}`}, status: 403,
		},
		"a user, a private distribution": {
			call: call{path: private, user: "carol"}, status: 404,
			body: `{"detail":"No ContainerDistribution matches the given query."}`,
		},
		"staff, a private distribution": {call: call{path: private}, status: 200},
		"a user, a private repository": {
			call: call{path: pulp.RepositoryHref(pulp.ContainerPush, secret.Repository.ID), user: "carol"}, status: 404,
		},
		"a user, versions of a private repository": {
			call:   call{path: pulp.RepositoryHref(pulp.ContainerPush, secret.Repository.ID) + "versions/", user: "carol"},
			status: 404,
		},
		"a user, its version's content": {
			call: call{path: "content/container/tags/?repository_version=" + version, user: "carol"}, status: 400,
			body: `["URI ` + version + ` not found for repositoryversion."]`,
		},
		"a user, deleting it": {call: call{method: "DELETE", path: private, user: "carol"}, status: 404},
		"a user, workers":     {call: call{path: "workers/", user: "carol"}, status: 200},
	} {
		t.Run(name, func(t *testing.T) { w.expect(c.call, c.status, c.body) })
	}
	count := func(path, user string) any { return w.do(call{path: path, user: user}).body.(map[string]any)["count"] }
	for _, path := range []string{"repositories/", pulp.PushCollection, "distributions/", pulp.NamespaceCollection} {
		if staff, user := count(path, ""), count(path, "carol"); staff != 2.0 || user != 1.0 {
			t.Errorf("%s: staff sees %v, carol %v", path, staff, user)
		}
	}
	if staff, user := count(
		"content/container/tags/?name=hidden", "",
	), count("content/container/tags/?name=hidden", "carol"); staff != 1.0 || user != 0.0 {
		t.Errorf("tags: staff sees %v, carol %v", staff, user)
	}
}

func TestStatusReportsConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.get("status/")
	if len(
		s["online_workers"].([]any),
	) != 1 || s["database_connection"].(map[string]any)["connected"] != true || s["domain_enabled"] != false {
		t.Errorf("status %v", s)
	}
	if space := s["storage"].(map[string]any); space["total"].(float64) < space["free"].(float64) || space["total"].(float64) == 0 {
		t.Errorf("storage %v", space)
	}
	if origin := s["content_settings"].(map[string]any)["content_origin"]; origin != "https://registry.example:8443" {
		t.Errorf("origin %v", origin)
	}
	w.expect(call{path: "livez/", user: "-"}, 200, "")
	if err := w.store.DB.Close(); err != nil {
		t.Fatal(err)
	}
	if s := w.get("status/"); s["database_connection"].(map[string]any)["connected"] != false {
		t.Errorf("status without a database: %v", s)
	}
	w.expect(call{path: "livez/", user: "-"}, 200, "")
	w.expect(call{path: "readyz/", user: "-"}, 503, `{"detail":"Not ready."}`)
	if r := w.do(call{path: "workers/", user: "-"}); strings.Contains(r.raw, "sql") {
		t.Errorf("internals: %s", r.raw)
	}
}

// broken is an Authenticator that fails as the test determines.
type broken struct{ fail func() error }

func (b broken) Basic(*http.Request) (*access.Caller, error) { return nil, b.fail() }

func TestInternalErrorsAreNotShown(t *testing.T) {
	t.Parallel()
	public, _ := url.Parse("https://registry.example")
	for name, fail := range map[string]func() error{
		"an error without a kind": func() error { return errors.New("password of the database is hunter2") },
		"a panic":                 func() error { panic("hunter2") },
	} {
		var logged strings.Builder
		h := api.New(api.Options{
			Auth: broken{
				fail,
			}, PublicURL: public, Log: slog.New(
				slog.NewTextHandler(&logged, nil),
			), Ready: func(context.Context) error { return nil },
		})
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodGet, pulp.Root+"tasks/", nil))
		body, _ := io.ReadAll(rec.Body)
		if rec.Code != 500 || string(
			body,
		) != `{"detail":"Internal server error."}` || !strings.Contains(logged.String(), "hunter2") {
			t.Errorf("%s: %d %s; log %s", name, rec.Code, body, logged.String())
		}
	}
}

func TestThereIsOneContentGuard(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.results(pulp.GuardCollection, "pulp_href")
	if again := w.results(
		pulp.GuardCollection+"?name=content%20redirect", "pulp_href",
	); len(first) != 1 || len(again) != 1 || first[0] != again[0] {
		t.Errorf("guards %v, %v", first, again)
	}
	if none := w.results(pulp.GuardCollection+"?name=x", "pulp_href"); len(none) != 0 {
		t.Errorf("guards %v", none)
	}
	if d := w.results(pulp.DistributionCollection, "content_guard"); d[0] != first[0] {
		t.Errorf("the distribution names %v", d)
	}
	w.expect(call{path: first[0] + "?fields=name"}, 200, `{"name":"content redirect"}`)
	w.expect(
		call{path: pulp.Href(pulp.GuardCollection, pulp.NewID())}, 404,
		`{"detail":"No ContentRedirectContentGuard matches the given query."}`,
	)
	if got := w.get(
		pulp.DistributionCollection,
	)["results"].([]any)[0].(map[string]any)["registry_path"]; got != "registry.example:8443/acme/app" {
		t.Errorf("registry_path %v", got)
	}
}

// TestTooManyFailedLogins proves that the REST API refuses passwords from an address with ten failed logins, in its
// shape of an error and with Retry-After, and still answers anonymous requests and credentials that were verified
// recently.
func TestTooManyFailedLogins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.withWorker() // with real logins
	w.expect(call{path: "tasks/"}, http.StatusOK, "")
	wrong := map[string]string{
		"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+strings.Repeat("x", 73))),
	}
	for range 10 {
		w.expect(
			call{path: "tasks/", user: "-", header: wrong}, http.StatusUnauthorized, `{"detail":"Invalid username/password."}`,
		)
	}
	w.expect(
		call{path: "tasks/", user: "-", header: wrong}, http.StatusTooManyRequests,
		`{"detail":"Too many failed logins from this address. Try again later."}`,
	)
	r := w.do(call{path: "tasks/", user: "-", header: wrong})
	if after, err := strconv.Atoi(r.Header.Get("Retry-After")); err != nil || after < 1 || after > 60 {
		t.Errorf("Retry-After %q", r.Header.Get("Retry-After"))
	}
	w.expect(call{path: "tasks/"}, http.StatusOK, "")
	w.expect(call{path: "status/", user: "-"}, http.StatusOK, "")
	w.expect(call{path: "status/", user: "-", header: wrong}, http.StatusOK, "")
}
