package proxy_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/proxy"
)

const bearer = `Bearer realm="https://registry.example:8443/token/",service="registry.example:8443"`

// token requests a token for scopes. It returns the Authorization header and the access that the token grants, as
// JSON.
func (w *world) token(caller string, scopes ...string) (header, access string) {
	w.t.Helper()
	q := url.Values{"service": {publicHost}, "scope": scopes}
	a := w.expect(request{as: caller, path: "/token/?" + q.Encode()}, http.StatusOK)
	var body struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
		IssuedAt    string `json:"issued_at"`
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil {
		w.t.Fatal(err)
	}
	if body.Token == "" || body.Token != body.AccessToken || body.ExpiresIn != 300 ||
		len(body.IssuedAt) != len("2026-11-22T21:56:42.407180Z") {
		w.t.Errorf("token response: %s", a.body)
	}
	bearer, err := w.options.Tokens.Verify(body.Token)
	if err != nil {
		w.t.Fatal(err)
	}
	granted, err := json.Marshal(bearer.Access)
	if err != nil {
		w.t.Fatal(err)
	}
	return "Bearer " + body.Token, string(granted)
}

func TestChallenges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pushImage("acme/app", "one", "v1")
	w.setPrivate("acme/app")
	narrow, _ := w.token("admin", "repository:acme/other:pull")
	tests := map[string]struct{ caller, method, path, want string }{
		"the base": {method: http.MethodGet, path: "/v2/", want: bearer},
		"a read": {
			method: http.MethodGet,
			path:   "/v2/acme/app/tags/list",
			want:   bearer + `,scope="repository:acme/app:pull"`,
		},
		"a write": {
			method: http.MethodPut,
			path:   "/v2/acme/app/manifests/x",
			want:   bearer + `,scope="repository:acme/app:push"`,
		},
		"a mount": {
			method: http.MethodPost,
			path:   "/v2/acme/app/blobs/uploads/?from=acme/one&mount=sha256:abc",
			want:   bearer + `,scope="repository:acme/app:push",scope="repository:acme/one:pull"`,
		},
		"a mount with a quote": {
			method: http.MethodPost,
			path:   `/v2/acme/app/blobs/uploads/?from=x"y&mount=sha256:abc`,
			want:   bearer + `,scope="repository:acme/app:push"`,
		},
		"the catalog": {
			method: http.MethodGet,
			path:   "/v2/_catalog",
			want:   bearer + `,scope="registry:catalog:*"`,
		},
		"an upload's state": {
			method: http.MethodGet,
			path:   "/v2/acme/app/blobs/uploads/x",
			want:   bearer + `,scope="repository:acme/app:push"`,
		},
		"a bad password":       {caller: "Basic YWRtaW46d3Jvbmc=", method: http.MethodGet, path: "/v2/", want: bearer},
		"a malformed password": {caller: "Basic !!", method: http.MethodGet, path: "/v2/", want: bearer},
		"a bad token": {
			caller: "Bearer x.y.z",
			method: http.MethodGet,
			path:   "/v2/",
			want:   bearer + `,error="invalid_token"`,
		},
		"a token for elsewhere": {
			caller: narrow,
			method: http.MethodGet,
			path:   "/v2/acme/app/tags/list",
			want:   bearer + `,scope="repository:acme/app:pull",error="insufficient_scope"`,
		},
		"a write without permission": {
			caller: "carol",
			method: http.MethodPost,
			path:   "/v2/acme/app/blobs/uploads/",
			want:   bearer + `,scope="repository:acme/app:push",error="insufficient_scope"`,
		},
		"an unknown kind of login": {caller: "Digest x", method: http.MethodGet, path: "/v2/", want: bearer},
		"a name that is not there": {
			method: http.MethodGet,
			path:   "/v2/acme/none/tags/list",
			want:   bearer + `,scope="repository:acme/none:pull"`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) { // not parallel: the token would expire while other tests run
			if a := w.expectError(request{as: tt.caller, method: tt.method, path: tt.path}, http.StatusUnauthorized, "UNAUTHORIZED"); a.header.Get(
				"WWW-Authenticate",
			) != tt.want {
				t.Errorf("challenge\n got %s\nwant %s", a.header.Get("WWW-Authenticate"), tt.want)
			}
		})
	}
}

func TestPermissions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := string(w.pushImage("acme/app", "one", "v1"))
	secret := string(w.pushImage("acme/secret", "two", "v1"))
	w.setPrivate("acme/secret")
	pull, _ := w.token("admin", "repository:acme/app:pull")
	scoped, _ := w.token("acme", "repository:acme/secret:pull")

	w.expect(request{path: "/v2/acme/app/manifests/v1"}, http.StatusOK)
	w.expect(request{as: "carol", path: "/v2/acme/app/manifests/" + d}, http.StatusOK)
	w.expect(request{as: pull, path: "/v2/"}, http.StatusOK)
	w.expectError(
		request{as: pull, method: http.MethodDelete, path: "/v2/acme/app/manifests/v1"},
		http.StatusUnauthorized,
		"UNAUTHORIZED",
	)
	w.expectError(
		request{as: pull, method: http.MethodPut, path: "/v2/acme/app/manifests/v2", body: "{}"},
		http.StatusUnauthorized,
		"UNAUTHORIZED",
	)
	w.expectError(
		request{method: http.MethodDelete, path: "/v2/acme/app/manifests/v1"},
		http.StatusUnauthorized,
		"UNAUTHORIZED",
	)
	w.expectError(
		request{as: "carol", method: http.MethodDelete, path: "/v2/acme/app/manifests/v1"},
		http.StatusUnauthorized,
		"UNAUTHORIZED",
	)
	w.expect(request{as: "acme", path: "/v2/acme/secret/manifests/v1"}, http.StatusOK)
	w.expect(request{as: scoped, path: "/v2/acme/secret/tags/list"}, http.StatusOK)

	if a := w.send(request{path: "/extensions/v2/acme/secret/signatures/" + secret}); a.status != http.StatusUnauthorized {
		t.Errorf("signatures of a private repository: %d", a.status)
	}

	// The loss of a permission has immediate effect, even with a token.
	if _, err := w.store.Accounts.PutUser(t.Context(), "acme", hash(), false, false); err != nil {
		t.Fatal(err)
	}
	w.expectError(request{as: scoped, path: "/v2/acme/secret/tags/list"}, http.StatusUnauthorized, "UNAUTHORIZED")
	w.expectError(request{as: "acme", path: "/v2/acme/secret/tags/list"}, http.StatusUnauthorized, "UNAUTHORIZED")
}

func TestAnonymousPullCanBeOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *proxy.Options) { o.AnonymousPull = auth.AnonymousPullOff })
	w.pushImage("acme/app", "one", "v1")
	w.expectError(request{path: "/v2/acme/app/manifests/v1"}, http.StatusUnauthorized, "UNAUTHORIZED")
	if _, granted := w.token("", "repository:acme/app:pull"); !strings.Contains(granted, `"actions":[]`) {
		t.Errorf("an anonymous caller is granted %s", granted)
	}
	w.expect(request{as: "carol", path: "/v2/acme/app/manifests/v1"}, http.StatusOK)
}

// TestPrivateNamesLookAbsent checks that callers without permission to read a private repository cannot distinguish
// it from an absent one by their token, the response, or the number of queries, even if the repository is cached.
func TestPrivateNamesLookAbsent(t *testing.T) {
	t.Parallel()
	for _, mode := range []auth.AnonymousPull{auth.AnonymousPullOn, auth.AnonymousPullOff, auth.AnonymousPullWithToken} {
		t.Run("anonymous pull "+string(mode), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(o *proxy.Options) { o.AnonymousPull = mode })
			w.store.Serving.EnableCache()
			d := string(w.pushImage("acme/secret", "two", "v1"))
			w.setPrivate("acme/secret")
			w.expect(
				request{as: "carol", method: http.MethodPost, path: "/v2/carol/own/blobs/uploads/"},
				http.StatusAccepted,
			)
			bearers := map[string]map[string]string{"secret": {}, "absent": {}}
			for name, headers := range bearers {
				for caller, user := range map[string]string{"anonymous token": "", "token": "carol"} {
					for kind, actions := range map[string]string{"pull": "pull", "push": "pull,push"} {
						header, access := w.token(user, "repository:acme/"+name+":"+actions)
						headers[caller+" to "+kind] = header
						want := `[{"type":"repository","name":"acme/` + name + `","actions":[]}]`
						if user != "" {
							want = strings.ReplaceAll(want, "[]", `["pull"]`)
						}
						if access != want {
							t.Errorf("%s to %s: access %s, want %s", caller, kind, access, want)
						}
					}
				}
				headers["anonymous"], headers["carol"] = "", "carol"
			}
			requests := []struct{ method, path, body string }{
				{
					method: http.MethodGet,
					path:   "/v2/NAME/tags/list",
				}, {method: http.MethodGet, path: "/v2/NAME/manifests/v1"}, {method: http.MethodHead, path: "/v2/NAME/manifests/v1"},
				{
					method: http.MethodGet,
					path:   "/v2/NAME/manifests/" + d,
				}, {method: http.MethodGet, path: "/v2/NAME/blobs/" + d}, {method: http.MethodHead, path: "/v2/NAME/blobs/" + d},
				{
					method: http.MethodGet,
					path:   "/v2/NAME/referrers/" + d,
				}, {method: http.MethodGet, path: "/extensions/v2/NAME/signatures/" + d},
				{
					method: http.MethodPut,
					path:   "/extensions/v2/NAME/signatures/" + d,
					body:   "{}",
				}, {method: http.MethodPut, path: "/v2/NAME/manifests/v2", body: "{}"}, {method: http.MethodDelete, path: "/v2/NAME/manifests/v1"},
				{
					method: http.MethodDelete,
					path:   "/v2/NAME/blobs/" + d,
				}, {method: http.MethodPost, path: "/v2/NAME/blobs/uploads/"},
				{
					method: http.MethodGet,
					path:   "/v2/NAME/blobs/uploads/01a2053c-0f11-7553-bfbb-807cca916423",
				}, {method: http.MethodPatch, path: "/v2/NAME/blobs/uploads/01a2053c-0f11-7553-bfbb-807cca916423", body: "x"},
				{method: http.MethodPost, path: "/v2/carol/own/blobs/uploads/?from=NAME&mount=" + d},
			}
			for _, r := range requests {
				for caller := range bearers["secret"] {
					seen := func(name string) (response, int64) {
						// Empty all caches and fill them again, so that none ends during the request.
						if err := w.store.DB.InTx(t.Context(), func(x *sqldb.Tx) error { w.store.Accounts.Changed(x); return nil }); err != nil {
							t.Fatal(err)
						}
						w.expect(request{as: bearers["absent"]["token to pull"], path: "/v2/"}, http.StatusOK)
						w.expect(request{as: "acme", path: "/v2/acme/secret/manifests/v1"}, http.StatusOK)
						w.expect(
							request{as: "carol", method: http.MethodPost, path: "/v2/carol/own/blobs/uploads/"},
							http.StatusAccepted,
						)
						before := w.store.DB.Reads()
						a := w.send(
							request{
								as:     bearers[name][caller],
								method: r.method,
								path:   strings.ReplaceAll(r.path, "NAME", "acme/"+name),
								body:   r.body,
							},
						)
						return a, w.store.DB.Reads() - before
					}
					there, queries := seen("secret")
					not, wanted := seen("absent")
					same := func(a response) string {
						return strings.ReplaceAll(a.body+a.header.Get("WWW-Authenticate"), "secret", "absent")
					}
					if there.status != not.status || same(there) != same(not) || queries != wanted {
						t.Errorf(
							"%s %s by %s: %d %s after %d queries where it is private, %d %s after %d where it is absent",
							r.method,
							r.path,
							caller,
							there.status,
							same(there),
							queries,
							not.status,
							same(not),
							wanted,
						)
					}
					if there.status != http.StatusUnauthorized && !strings.Contains(r.path, "mount") {
						t.Errorf("%s %s by %s: %d, want 401", r.method, r.path, caller, there.status)
					}
				}
			}
			// The owner of the namespace learns that the name is absent.
			w.expectError(request{as: "acme", path: "/v2/acme/absent/tags/list"}, http.StatusNotFound, "NAME_UNKNOWN")
			w.expectError(request{as: "admin", path: "/v2/acme/absent/tags/list"}, http.StatusNotFound, "NAME_UNKNOWN")
		})
	}
}

// TestManyFirstPushes checks that concurrent first pushes to a new name all succeed, create one repository, and write
// one audit entry.
func TestManyFirstPushes(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	w := newWorld(t, func(o *proxy.Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	push, _ := w.token("acme", "repository:acme/app:pull,push")
	const pushes = 8
	var group sync.WaitGroup
	for range pushes {
		group.Go(func() {
			w.expect(
				request{as: push, method: http.MethodPost, path: "/v2/acme/app/blobs/uploads/"},
				http.StatusAccepted,
			)
		})
	}
	group.Wait()
	w.server.Close() // waits for the handlers
	if n := strings.Count(log.String(), `action="create repository"`); n != 1 {
		t.Errorf("%d audit entries for the creation of the repository:\n%s", n, log.String())
	}
}

// TestPushesPastObjectsWithTheirName checks that objects whose name is a path but that serve another path, or none,
// do not prevent pushes to the path, whether a push begins with an upload or a mount.
func TestPushesPastObjectsWithTheirName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	blob := w.pushBlob("acme/source", "layer")
	for _, path := range []string{"acme/app", "acme/mirror", "acme", "acme/mounted"} {
		remote, err := w.store.Catalog.CreateRemote(
			t.Context(),
			pulp.Remote{Name: path, URL: "https://x", UpstreamName: "a/b", Policy: pulp.OnDemand}, 0,
		)
		if err != nil {
			t.Fatal(err)
		}
		elsewhere, r := "carol/"+strings.ReplaceAll(path, "/", "-"), pulp.Repository{Type: pulp.Container, Name: path}
		if path == "acme/mirror" {
			r.RemoteID = remote.ID
		}
		if r, err = w.store.Catalog.CreateRepository(t.Context(), r, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.Catalog.CreateDistribution(t.Context(), nil, pulp.Distribution{Name: path, BasePath: elsewhere, RepositoryID: r.ID}, 0); err != nil {
			t.Fatal(err)
		}
		if path == "acme/mounted" {
			w.expect(
				request{
					as:     "acme",
					method: http.MethodPost,
					path:   "/v2/" + path + "/blobs/uploads/?from=acme/source&mount=" + string(blob),
				},
				http.StatusCreated,
			)
		}
		d := w.pushImage(path, path, "v1")
		w.expect(request{as: "acme", path: "/v2/" + path + "/manifests/" + string(d)}, http.StatusOK)
		w.expectError(
			request{as: "carol", path: "/v2/" + elsewhere + "/manifests/" + string(d)},
			http.StatusNotFound,
			"MANIFEST_UNKNOWN",
		)
	}
	w.expectError(
		request{as: "carol", method: http.MethodPost, path: "/v2/nginx/blobs/uploads/"},
		http.StatusUnauthorized,
		"UNAUTHORIZED",
	)
}
