package proxy_test

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
)

func TestConditionalRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := w.imageOf("acme/app", "one"), w.imageOf("acme/app", "two")
	first, second := `"`+string(digest.FromString(one))+`"`, `"`+string(digest.FromString(two))+`"`
	put := func(status int, body string, header ...string) {
		t.Helper()
		code := ""
		if status == http.StatusPreconditionFailed {
			code = "PRECONDITION_FAILED"
		}
		a := w.want(status, code, "admin", http.MethodPut, "/v2/acme/app/manifests/v1", body, append([]string{"Content-Type", pulp.OCIManifest}, header...)...)
		if want := `"` + string(digest.FromString(body)) + `"`; status == http.StatusCreated && a.header.Get("Etag") != want {
			t.Errorf("Etag %s, want %s", a.header.Get("Etag"), want)
		}
	}
	stands := func(body string) {
		t.Helper()
		if a := w.ask("", http.MethodGet, "/v2/acme/app/manifests/v1", nil); a.body != body {
			t.Errorf("the tag stands for %s, want %s", a.body, body)
		}
	}
	put(http.StatusPreconditionFailed, one, "If-Match", "*")
	put(http.StatusPreconditionFailed, one, "If-Match", first)
	w.want(http.StatusNotFound, "MANIFEST_UNKNOWN", "", http.MethodGet, "/v2/acme/app/manifests/v1", nil)
	put(http.StatusCreated, one, "If-None-Match", "*")
	put(http.StatusPreconditionFailed, two, "If-None-Match", "*")
	put(http.StatusPreconditionFailed, two, "If-Match", second)
	put(http.StatusPreconditionFailed, two, "If-Match", "W/"+first)
	put(http.StatusPreconditionFailed, two, "If-Match", "rubbish")
	put(http.StatusPreconditionFailed, two, "If-Match", "")
	put(http.StatusPreconditionFailed, two, "If-None-Match", first)
	stands(one)
	put(http.StatusCreated, two, "If-Match", second+", "+first)
	stands(two)
	put(http.StatusCreated, one, "If-None-Match", first)
	put(http.StatusCreated, two, "If-Match", "*")
	put(http.StatusCreated, one, "If-Match", string(digest.FromString(two))) // without its quotes
	w.want(http.StatusPreconditionFailed, "PRECONDITION_FAILED", "admin", http.MethodDelete, "/v2/acme/app/manifests/v1", nil, "If-Match", second)
	stands(one)

	for _, reference := range []string{"v1", string(digest.FromString(one))} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			for header, status := range map[string]int{first: 304, "W/" + first: 304, "*": 304, second + "," + first: 304, second: 200, "rubbish": 200} {
				a := w.ask("", method, "/v2/acme/app/manifests/"+reference, nil, "If-None-Match", header)
				if a.status != status || a.header.Get("Etag") != first || a.header.Get("Docker-Content-Digest") != string(digest.FromString(one)) || status == 304 && a.body != "" {
					t.Errorf("%s %s If-None-Match %s: %d %v %q", method, reference, header, a.status, a.header, a.body)
				}
			}
		}
	}
	w.want(http.StatusAccepted, "", "admin", http.MethodDelete, "/v2/acme/app/manifests/v1", nil, "If-Match", first)
}

// Of many who move a tag from the digest that they all saw, one succeeds.
func TestOneOfManyMovesATag(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	from := w.imageOf("acme/app", "from")
	w.want(http.StatusCreated, "", "admin", http.MethodPut, "/v2/acme/app/manifests/v1", from, "Content-Type", pulp.OCIManifest)
	for name, header := range map[string][]string{"v1": {"If-Match", `"` + string(digest.FromString(from)) + `"`}, "new": {"If-None-Match", "*"}} {
		var racers sync.WaitGroup
		var won, lost atomic.Int64
		for n := range 16 {
			body := w.imageOf("acme/app", fmt.Sprintf("%s %d", name, n))
			racers.Go(func() {
				switch a := w.ask("admin", http.MethodPut, "/v2/acme/app/manifests/"+name, body, append([]string{"Content-Type", pulp.OCIManifest}, header...)...); a.status {
				case http.StatusCreated:
					won.Add(1)
				case http.StatusPreconditionFailed:
					lost.Add(1)
				default:
					t.Errorf("%d %s", a.status, a.body)
				}
			})
		}
		racers.Wait()
		if won.Load() != 1 || lost.Load() != 15 {
			t.Errorf("%s: %d won and %d lost", name, won.Load(), lost.Load())
		}
	}
}
