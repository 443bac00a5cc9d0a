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
	"github.com/countersign/countersign/proxy"
)

const bearer = `Bearer realm="https://registry.example:8443/token/",service="registry.example:8443"`

// token gets a token for scopes and returns the header to send it in, and what it grants.
func (w *world) token(who string, scopes ...string) (header, access string) {
	w.t.Helper()
	q := url.Values{"service": {publicHost}, "scope": scopes}
	a := w.expect(request{as: who, path: "/token/?" + q.Encode()}, http.StatusOK)
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
		w.t.Errorf("token answer: %s", a.body)
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
	w.private("acme/app")
	narrow, _ := w.token("admin", "repository:acme/other:pull")
	tests := map[string]struct{ who, method, path, want string }{
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
		"a bad password":         {who: "Basic YWRtaW46d3Jvbmc=", method: http.MethodGet, path: "/v2/", want: bearer},
		"rubbish for a password": {who: "Basic !!", method: http.MethodGet, path: "/v2/", want: bearer},
		"a bad token": {
			who:    "Bearer x.y.z",
			method: http.MethodGet,
			path:   "/v2/",
			want:   bearer + `,error="invalid_token"`,
		},
		"a token for elsewhere": {
			who:    narrow,
			method: http.MethodGet,
			path:   "/v2/acme/app/tags/list",
			want:   bearer + `,scope="repository:acme/app:pull",error="insufficient_scope"`,
		},
		"a write by who may not": {
			who:    "carol",
			method: http.MethodPost,
			path:   "/v2/acme/app/blobs/uploads/",
			want:   bearer + `,scope="repository:acme/app:push",error="insufficient_scope"`,
		},
		"an unknown kind of login": {who: "Digest x", method: http.MethodGet, path: "/v2/", want: bearer},
		"a name that is not there": {
			method: http.MethodGet,
			path:   "/v2/acme/none/tags/list",
			want:   bearer + `,scope="repository:acme/none:pull"`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if a := w.expectError(request{as: tt.who, method: tt.method, path: tt.path}, http.StatusUnauthorized, "UNAUTHORIZED"); a.header.Get(
				"WWW-Authenticate",
			) != tt.want {
				t.Errorf("challenge\n got %s\nwant %s", a.header.Get("WWW-Authenticate"), tt.want)
			}
		})
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pushImage("acme/app", "one", "v1")
	w.pushImage("acme/secret", "one", "v1")
	w.private("acme/secret")
	const none = `,"actions":[]}]`
	tests := map[string]struct {
		who, scope, want string
	}{
		"anybody may pull what is public": {
			scope: "repository:acme/app:pull",
			want:  `[{"type":"repository","name":"acme/app","actions":["pull"]}]`,
		},
		"nobody may push": {
			scope: "repository:acme/app:pull,push",
			want:  `[{"type":"repository","name":"acme/app","actions":["pull"]}]`,
		},
		"what is private is not there": {
			scope: "repository:acme/secret:pull",
			want:  `[{"type":"repository","name":"acme/secret"` + none,
		},
		"what is not there is not there": {
			scope: "repository:acme/none:pull",
			want:  `[{"type":"repository","name":"acme/none"` + none,
		},
		"push brings pull": {
			who:   "admin",
			scope: "repository:acme/app:push",
			want:  `[{"type":"repository","name":"acme/app","actions":["push","pull"]}]`,
		},
		"a namespace of one's own": {
			who:   "carol",
			scope: "repository:carol/new:push",
			want:  `[{"type":"repository","name":"carol/new","actions":["push","pull"]}]`,
		},
		"a namespace of another's": {
			who:   "carol",
			scope: "repository:acme/app:push",
			want:  `[{"type":"repository","name":"acme/app"` + none,
		},
		"a private one of another's": {
			who:   "carol",
			scope: "repository:acme/secret:pull",
			want:  `[{"type":"repository","name":"acme/secret","actions":["pull"]}]`,
		},
		"one that is absent": {
			who:   "carol",
			scope: "repository:acme/none:pull",
			want:  `[{"type":"repository","name":"acme/none","actions":["pull"]}]`,
		},
		"the catalog": {
			who:   "carol",
			scope: "registry:catalog:*",
			want:  `[{"type":"registry","name":"catalog","actions":["*"]}]`,
		},
		"the catalog for nobody": {
			scope: "registry:catalog:*",
			want:  `[{"type":"registry","name":"catalog"` + none,
		},
		"another kind": {
			who:   "admin",
			scope: "registry:x:*",
			want:  `[{"type":"registry","name":"x"` + none,
		},
		"a name that is none": {
			who:   "admin",
			scope: "repository:../x:pull",
			want:  `[{"type":"repository","name":"../x"` + none,
		},
		"a scope that is none spoils them all": {who: "admin", scope: "repository:acme/app:pull foo", want: `[]`},
		"a plugin": {
			who:   "admin",
			scope: "repository(plugin):acme/app:pull,push",
			want:  `[{"type":"repository","class":"plugin","name":"acme/app","actions":["push","pull"]}]`,
		},
		"a plugin of another's": {
			who:   "carol",
			scope: "repository(plugin):acme/app:push",
			want:  `[{"type":"repository","class":"plugin","name":"acme/app"` + none,
		},
		"another class": {
			who:   "admin",
			scope: "repository(x):acme/app:pull",
			want:  `[{"type":"repository(x)","name":"acme/app"` + none,
		},
		"a star is what one may": {
			who:   "carol",
			scope: "repository:acme/app:*",
			want:  `[{"type":"repository","name":"acme/app","actions":["pull"]}]`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, got := w.token(tt.who, tt.scope); got != tt.want {
				t.Errorf("granted %s, want %s", got, tt.want)
			}
		})
	}
	if a := w.send(request{path: "/token/"}); a.status != http.StatusBadRequest ||
		a.body != `{"detail":"No service name provided."}` {
		t.Errorf("no service: %+v", a)
	}
	a := w.send(request{as: "Basic YWRtaW46d3Jvbmc=", path: "/token/?service=x"})
	if a.status != http.StatusUnauthorized || a.body != `{"detail":"Invalid username/password."}` ||
		a.header.Get("WWW-Authenticate") != `Basic realm="api"` {
		t.Errorf("bad password: %+v", a)
	}
	a = w.send(request{method: http.MethodPost, path: "/token/", body: "x"})
	if a.status != http.StatusMethodNotAllowed || a.body != `{"detail":"Method \"POST\" not allowed."}` ||
		a.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("another method: %+v", a)
	}
	for from, to := range map[string]string{"/token?service=a%26b&scope=x": "/token/?service=a%26b&scope=x", "/token": "/token/", "/v2": "/v2/"} {
		if a := w.send(request{path: from}); a.status != http.StatusMovedPermanently || a.header.Get("Location") != to {
			t.Errorf("%s: %+v, want to be sent to %s", from, a, to)
		}
	}
}

func TestWhoMayWhat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := string(w.pushImage("acme/app", "one", "v1"))
	secret := string(w.pushImage("acme/secret", "two", "v1"))
	w.private("acme/secret")
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

	// A right that is taken away is gone at once, whatever tokens say.
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
		t.Errorf("nobody is granted %s", granted)
	}
	w.expect(request{as: "carol", path: "/v2/acme/app/manifests/v1"}, http.StatusOK)
}

// TestPrivateNamesLookAbsent proves that callers who may not read a private repository cannot tell it from an absent
// one: not by the token that they get for it, not by any response, and not by the number of queries, although the
// private repository's own reads are remembered.
func TestPrivateNamesLookAbsent(t *testing.T) {
	t.Parallel()
	for _, mode := range []auth.AnonymousPull{auth.AnonymousPullOn, auth.AnonymousPullOff, auth.AnonymousPullWithToken} {
		t.Run("anonymous pull "+string(mode), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(o *proxy.Options) { o.AnonymousPull = mode })
			w.store.Serving.EnableCache()
			d := string(w.pushImage("acme/secret", "two", "v1"))
			w.private("acme/secret")
			w.expect(
				request{as: "carol", method: http.MethodPost, path: "/v2/carol/own/blobs/uploads/"},
				http.StatusAccepted,
			)
			bearers := map[string]map[string]string{"secret": {}, "absent": {}}
			for name, headers := range bearers {
				for who, user := range map[string]string{"anonymous token": "", "token": "carol"} {
					for kind, actions := range map[string]string{"pull": "pull", "push": "pull,push"} {
						header, access := w.token(user, "repository:acme/"+name+":"+actions)
						headers[who+" to "+kind] = header
						want := `[{"type":"repository","name":"acme/` + name + `","actions":[]}]`
						if user != "" {
							want = strings.ReplaceAll(want, "[]", `["pull"]`)
						}
						if access != want {
							t.Errorf("%s to %s grants %s, want %s", who, kind, access, want)
						}
					}
				}
				headers["nobody"], headers["carol"] = "", "carol"
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
				for who := range bearers["secret"] {
					seen := func(name string) (response, int64) {
						w.expect(
							request{as: "acme", path: "/v2/acme/secret/manifests/v1"},
							http.StatusOK,
						) // which is remembered
						before := w.store.DB.Reads()
						a := w.send(
							request{
								as:     bearers[name][who],
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
							who,
							there.status,
							same(there),
							queries,
							not.status,
							same(not),
							wanted,
						)
					}
					if there.status != http.StatusUnauthorized && !strings.Contains(r.path, "mount") {
						t.Errorf("%s %s by %s: %d, want 401", r.method, r.path, who, there.status)
					}
				}
			}
			// The owner of the namespace is told that the name is absent.
			w.expectError(request{as: "acme", path: "/v2/acme/absent/tags/list"}, http.StatusNotFound, "NAME_UNKNOWN")
			w.expectError(request{as: "admin", path: "/v2/acme/absent/tags/list"}, http.StatusNotFound, "NAME_UNKNOWN")
		})
	}
}

// TestAnonymousPullWithToken proves that with anonymous_pull: token every request without a token is challenged, and
// that the token service issues tokens for public repositories to everybody.
func TestAnonymousPullWithToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *proxy.Options) { o.AnonymousPull = auth.AnonymousPullWithToken })
	w.pushImage("acme/app", "one", "v1")
	w.pushImage("acme/other", "one", "v1")
	const path = "/v2/acme/app/manifests/v1"
	a := w.expectError(request{path: path}, http.StatusUnauthorized, "UNAUTHORIZED")
	if want := bearer + `,scope="repository:acme/app:pull"`; a.header.Get("WWW-Authenticate") != want {
		t.Errorf("challenge %s, want %s", a.header.Get("WWW-Authenticate"), want)
	}
	anonymous, _ := w.token("", "repository:acme/app:pull")
	w.expect(request{as: anonymous, path: path}, http.StatusOK)
	w.expect(request{as: "carol", path: path}, http.StatusOK)
	w.expectError(request{as: anonymous, path: "/v2/acme/other/manifests/v1"}, http.StatusUnauthorized, "UNAUTHORIZED")
	narrow, _ := w.token("carol", "repository:acme/other:pull")
	w.expectError(request{as: narrow, path: path}, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestTokensOnly proves that registry.basic_auth: false refuses names and passwords on /v2/ and /extensions/, and
// only there.
func TestTokensOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := string(w.pushImage("acme/app", "one", "v1"))
	w.options.TokensOnly = true
	w.restart()
	for _, path := range []string{"/v2/", "/v2/acme/app/tags/list", "/extensions/v2/acme/app/signatures/" + d} {
		a := w.expectError(request{as: "admin", path: path}, http.StatusUnauthorized, "UNAUTHORIZED")
		if !strings.HasPrefix(a.header.Get("WWW-Authenticate"), bearer) ||
			!strings.Contains(a.body, "get one at /token/") {
			t.Errorf("%s: challenge %s, body %s", path, a.header.Get("WWW-Authenticate"), a.body)
		}
		token, _ := w.token("admin", "repository:acme/app:pull")
		w.expect(request{as: token, path: path}, http.StatusOK)
	}
}

// TestManyFirstPushes begins uploads to a new name at once, as clients that push several blobs do: all are taken, one
// made the repository, and the audit says so once.
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
	w.server.Close() // which waits for the handlers
	if n := strings.Count(log.String(), `action="create repository"`); n != 1 {
		t.Errorf("the repository was made %d times:\n%s", n, log.String())
	}
}

// TestTokensEndWithTheirAccount proves that a token which the server has just accepted, and remembers, is refused as
// soon as the password of its account changes or the account is disabled.
func TestTokensEndWithTheirAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	changed, err := auth.HashPassword("changed")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		hash   string
		active bool
	}{"password": {changed, true}, "same password, hashed again": {"", true}, "disabled": {hash(), false}} {
		if tt.hash == "" {
			if tt.hash, err = auth.HashPassword("secret"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.store.Accounts.PutUser(t.Context(), "carol", hash(), false, true); err != nil {
			t.Fatal(err)
		}
		header, _ := w.token("carol", "repository:carol/app:push")
		w.expect(
			request{as: header, method: http.MethodPost, path: "/v2/carol/app/blobs/uploads/"},
			http.StatusAccepted,
		)
		if _, err := w.store.Accounts.PutUser(t.Context(), "carol", tt.hash, false, tt.active); err != nil {
			t.Fatal(err)
		}
		a := w.expectError(
			request{as: header, method: http.MethodPost, path: "/v2/carol/app/blobs/uploads/"},
			http.StatusUnauthorized,
			"UNAUTHORIZED",
		)
		if got := a.header.Get("WWW-Authenticate"); !strings.HasSuffix(got, `,error="invalid_token"`) {
			t.Errorf("%s: challenge %s", name, got)
		}
	}
}

// TestPushesPastObjectsWithTheirName proves that objects which have a path as their name, and serve another path or
// none, keep nobody from pushing to the path, whether the push begins with an upload or with a mount.
func TestPushesPastObjectsWithTheirName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	blob := w.pushBlob("acme/source", "layer")
	for _, path := range []string{"acme/app", "acme/mirror", "acme", "acme/mounted"} {
		remote, err := w.store.Catalog.CreateRemote(
			t.Context(),
			pulp.Remote{Name: path, URL: "https://x", UpstreamName: "a/b", Policy: pulp.OnDemand},
		)
		if err != nil {
			t.Fatal(err)
		}
		elsewhere, r := "carol/"+strings.ReplaceAll(path, "/", "-"), pulp.Repository{Type: pulp.Container, Name: path}
		if path == "acme/mirror" {
			r.RemoteID = remote.ID
		}
		if r, err = w.store.Catalog.CreateRepository(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if _, err := w.store.Catalog.CreateDistribution(t.Context(), nil, pulp.Distribution{Name: path, BasePath: elsewhere, RepositoryID: r.ID}); err != nil {
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
