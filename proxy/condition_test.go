package proxy_test

import (
	"fmt"
	"net/http"
	"strings"
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
		a := w.expectError(
			request{
				as:      "admin",
				method:  http.MethodPut,
				path:    "/v2/acme/app/manifests/v1",
				body:    body,
				headers: append([]string{"Content-Type", pulp.OCIManifest}, header...),
			},
			status,
			code,
		)
		if want := `"` + string(digest.FromString(body)) + `"`; status == http.StatusCreated &&
			a.header.Get("Etag") != want {
			t.Errorf("Etag %s, want %s", a.header.Get("Etag"), want)
		}
	}
	stands := func(body string) {
		t.Helper()
		if a := w.send(request{path: "/v2/acme/app/manifests/v1"}); a.body != body {
			t.Errorf("the tag has %s, want %s", a.body, body)
		}
	}
	put(http.StatusPreconditionFailed, one, "If-Match", "*")
	put(http.StatusPreconditionFailed, one, "If-Match", first)
	w.expectError(request{path: "/v2/acme/app/manifests/v1"}, http.StatusNotFound, "MANIFEST_UNKNOWN")
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
	put(http.StatusCreated, one, "If-Match", string(digest.FromString(two))) // without quotes
	w.expectError(
		request{
			as:      "admin",
			method:  http.MethodDelete,
			path:    "/v2/acme/app/manifests/v1",
			headers: []string{"If-Match", second},
		},
		http.StatusPreconditionFailed,
		"PRECONDITION_FAILED",
	)
	stands(one)

	for _, reference := range []string{"v1", string(digest.FromString(one))} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			for header, status := range map[string]int{first: 304, "W/" + first: 304, "*": 304, second + "," + first: 304, second: 200, "rubbish": 200} {
				a := w.send(
					request{
						method:  method,
						path:    "/v2/acme/app/manifests/" + reference,
						headers: []string{"If-None-Match", header},
					},
				)
				if a.status != status || a.header.Get("Etag") != first ||
					a.header.Get("Docker-Content-Digest") != string(digest.FromString(one)) ||
					status == 304 && a.body != "" {
					t.Errorf("%s %s If-None-Match %s: %d %v %q", method, reference, header, a.status, a.header, a.body)
				}
			}
		}
	}
	w.expect(
		request{
			as:      "admin",
			method:  http.MethodDelete,
			path:    "/v2/acme/app/manifests/v1",
			headers: []string{"If-Match", first},
		},
		http.StatusAccepted,
	)
}

// TestPreconditionsOnDigests checks that a precondition applies to each tag parameter of a PUT by digest, and to a
// DELETE by digest.
func TestPreconditionsOnDigests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := w.imageOf("acme/app", "one"), w.imageOf("acme/app", "two")
	first, second := digest.FromString(one), digest.FromString(two)
	quoted := func(d digest.Digest) string { return `"` + string(d) + `"` }
	put := func(status int, body, query string, header ...string) {
		t.Helper()
		code := ""
		if status == http.StatusPreconditionFailed {
			code = "PRECONDITION_FAILED"
		}
		w.expectError(
			request{
				as:      "admin",
				method:  http.MethodPut,
				path:    "/v2/acme/app/manifests/" + string(digest.FromString(body)) + query,
				body:    body,
				headers: append([]string{"Content-Type", pulp.OCIManifest}, header...),
			},
			status,
			code,
		)
	}
	put(http.StatusPreconditionFailed, one, "?tag=v1", "If-Match", quoted(first))
	put(http.StatusCreated, one, "?tag=v1", "If-None-Match", "*")
	put(http.StatusPreconditionFailed, two, "?tag=v1", "If-None-Match", "*")
	put(http.StatusPreconditionFailed, two, "?tag=new&tag=v1", "If-None-Match", "*")
	put(http.StatusPreconditionFailed, two, "?tag=v1", "If-Match", quoted(second))
	w.expectError(request{path: "/v2/acme/app/manifests/new"}, http.StatusNotFound, "MANIFEST_UNKNOWN")
	w.expectError(request{path: "/v2/acme/app/manifests/" + string(second)}, http.StatusNotFound, "MANIFEST_UNKNOWN")
	put(http.StatusCreated, two, "?tag=v1", "If-Match", quoted(first))
	if a := w.send(request{path: "/v2/acme/app/manifests/v1"}); a.body != two {
		t.Errorf("the tag has %s, want %s", a.body, two)
	}

	for _, header := range [][2]string{{"If-Match", quoted(first)}, {"If-Match", "rubbish"}, {"If-None-Match", "*"}, {"If-None-Match", quoted(second)}} {
		w.expectError(
			request{
				as:      "admin",
				method:  http.MethodDelete,
				path:    "/v2/acme/app/manifests/" + string(second),
				headers: []string{header[0], header[1]},
			},
			http.StatusPreconditionFailed,
			"PRECONDITION_FAILED",
		)
	}
	w.expect(
		request{
			as:      "admin",
			method:  http.MethodDelete,
			path:    "/v2/acme/app/manifests/" + string(second),
			headers: []string{"If-Match", quoted(second)},
		},
		http.StatusAccepted,
	)
}

// TestOneOfManyMovesATag checks that of many concurrent pushes with the same precondition exactly one moves the tag.
func TestOneOfManyMovesATag(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	from := w.imageOf("acme/app", "from")
	w.expect(manifestPut("/v2/acme/app/manifests/v1", from, pulp.OCIManifest), http.StatusCreated)
	match := []string{"If-Match", `"` + string(digest.FromString(from)) + `"`}
	w.expect(
		manifestPut("/v2/acme/app/manifests/"+string(digest.FromString(from))+"?tag=v2", from, pulp.OCIManifest),
		http.StatusCreated,
	)
	for name, header := range map[string][]string{"v1": match, "new": {"If-None-Match", "*"}, "?tag=v2": match, "?tag=newer": {"If-None-Match", "*"}} {
		var racers sync.WaitGroup
		var won, lost atomic.Int64
		for n := range 16 {
			body := w.imageOf("acme/app", fmt.Sprintf("%s %d", name, n))
			reference := name
			if strings.HasPrefix(name, "?") {
				reference = string(digest.FromString(body)) + name
			}
			racers.Go(func() {
				switch a := w.send(request{as: "admin", method: http.MethodPut, path: "/v2/acme/app/manifests/" + reference, body: body, headers: append([]string{"Content-Type", pulp.OCIManifest}, header...)}); a.status {
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
