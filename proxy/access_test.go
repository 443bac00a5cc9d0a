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
	a := w.want(http.StatusOK, "", who, http.MethodGet, "/token/?"+q.Encode(), nil)
	var body struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
		IssuedAt    string `json:"issued_at"`
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil {
		w.t.Fatal(err)
	}
	if body.Token == "" || body.Token != body.AccessToken || body.ExpiresIn != 300 || len(body.IssuedAt) != len("2026-11-22T21:56:42.407180Z") {
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
		"the base":                 {"", http.MethodGet, "/v2/", bearer},
		"a read":                   {"", http.MethodGet, "/v2/acme/app/tags/list", bearer + `,scope="repository:acme/app:pull"`},
		"a write":                  {"", http.MethodPut, "/v2/acme/app/manifests/x", bearer + `,scope="repository:acme/app:push"`},
		"a mount":                  {"", http.MethodPost, "/v2/acme/app/blobs/uploads/?from=acme/one&mount=sha256:abc", bearer + `,scope="repository:acme/app:push",scope="repository:acme/one:pull"`},
		"a mount with a quote":     {"", http.MethodPost, `/v2/acme/app/blobs/uploads/?from=x"y&mount=sha256:abc`, bearer + `,scope="repository:acme/app:push"`},
		"the catalog":              {"", http.MethodGet, "/v2/_catalog", bearer + `,scope="registry:catalog:*"`},
		"an upload's state":        {"", http.MethodGet, "/v2/acme/app/blobs/uploads/x", bearer + `,scope="repository:acme/app:push"`},
		"a bad password":           {"Basic YWRtaW46d3Jvbmc=", http.MethodGet, "/v2/", bearer},
		"rubbish for a password":   {"Basic !!", http.MethodGet, "/v2/", bearer},
		"a bad token":              {"Bearer x.y.z", http.MethodGet, "/v2/", bearer + `,error="invalid_token"`},
		"a token for elsewhere":    {narrow, http.MethodGet, "/v2/acme/app/tags/list", bearer + `,scope="repository:acme/app:pull",error="insufficient_scope"`},
		"a write by who may not":   {"carol", http.MethodPost, "/v2/acme/app/blobs/uploads/", bearer + `,scope="repository:acme/app:push",error="insufficient_scope"`},
		"an unknown kind of login": {"Digest x", http.MethodGet, "/v2/", bearer},
		"a name that is not there": {"", http.MethodGet, "/v2/acme/none/tags/list", bearer + `,scope="repository:acme/none:pull"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if a := w.want(http.StatusUnauthorized, "UNAUTHORIZED", tt.who, tt.method, tt.path, nil); a.header.Get("WWW-Authenticate") != tt.want {
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
		"anybody may pull what is public":      {"", "repository:acme/app:pull", `[{"type":"repository","name":"acme/app","actions":["pull"]}]`},
		"nobody may push":                      {"", "repository:acme/app:pull,push", `[{"type":"repository","name":"acme/app","actions":["pull"]}]`},
		"what is private is not there":         {"", "repository:acme/secret:pull", `[{"type":"repository","name":"acme/secret"` + none},
		"what is not there is not there":       {"", "repository:acme/none:pull", `[{"type":"repository","name":"acme/none"` + none},
		"push brings pull":                     {"admin", "repository:acme/app:push", `[{"type":"repository","name":"acme/app","actions":["push","pull"]}]`},
		"a namespace of one's own":             {"carol", "repository:carol/new:push", `[{"type":"repository","name":"carol/new","actions":["push","pull"]}]`},
		"a namespace of another's":             {"carol", "repository:acme/app:push", `[{"type":"repository","name":"acme/app"` + none},
		"a private one of another's":           {"carol", "repository:acme/secret:pull", `[{"type":"repository","name":"acme/secret","actions":["pull"]}]`},
		"one that is absent":                   {"carol", "repository:acme/none:pull", `[{"type":"repository","name":"acme/none","actions":["pull"]}]`},
		"the catalog":                          {"carol", "registry:catalog:*", `[{"type":"registry","name":"catalog","actions":["*"]}]`},
		"the catalog for nobody":               {"", "registry:catalog:*", `[{"type":"registry","name":"catalog"` + none},
		"another kind":                         {"admin", "registry:x:*", `[{"type":"registry","name":"x"` + none},
		"a name that is none":                  {"admin", "repository:../x:pull", `[{"type":"repository","name":"../x"` + none},
		"a scope that is none spoils them all": {"admin", "repository:acme/app:pull foo", `[]`},
		"a plugin":                             {"admin", "repository(plugin):acme/app:pull,push", `[{"type":"repository","class":"plugin","name":"acme/app","actions":["push","pull"]}]`},
		"a plugin of another's":                {"carol", "repository(plugin):acme/app:push", `[{"type":"repository","class":"plugin","name":"acme/app"` + none},
		"another class":                        {"admin", "repository(x):acme/app:pull", `[{"type":"repository(x)","name":"acme/app"` + none},
		"a star is what one may":               {"carol", "repository:acme/app:*", `[{"type":"repository","name":"acme/app","actions":["pull"]}]`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, got := w.token(tt.who, tt.scope); got != tt.want {
				t.Errorf("granted %s, want %s", got, tt.want)
			}
		})
	}
	if a := w.ask("", http.MethodGet, "/token/", nil); a.status != http.StatusBadRequest || a.body != `{"detail":"No service name provided."}` {
		t.Errorf("no service: %+v", a)
	}
	a := w.ask("Basic YWRtaW46d3Jvbmc=", http.MethodGet, "/token/?service=x", nil)
	if a.status != http.StatusUnauthorized || a.body != `{"detail":"Invalid username/password."}` || a.header.Get("WWW-Authenticate") != `Basic realm="api"` {
		t.Errorf("bad password: %+v", a)
	}
	a = w.ask("", http.MethodPost, "/token/", "x")
	if a.status != http.StatusMethodNotAllowed || a.body != `{"detail":"Method \"POST\" not allowed."}` || a.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("another method: %+v", a)
	}
	for from, to := range map[string]string{"/token?service=a%26b&scope=x": "/token/?service=a%26b&scope=x", "/token": "/token/", "/v2": "/v2/"} {
		if a := w.ask("", http.MethodGet, from, nil); a.status != http.StatusMovedPermanently || a.header.Get("Location") != to {
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

	w.want(http.StatusOK, "", "", http.MethodGet, "/v2/acme/app/manifests/v1", nil)
	w.want(http.StatusOK, "", "carol", http.MethodGet, "/v2/acme/app/manifests/"+d, nil)
	w.want(http.StatusOK, "", pull, http.MethodGet, "/v2/", nil)
	w.want(http.StatusUnauthorized, "UNAUTHORIZED", pull, http.MethodDelete, "/v2/acme/app/manifests/v1", nil)
	w.want(http.StatusUnauthorized, "UNAUTHORIZED", pull, http.MethodPut, "/v2/acme/app/manifests/v2", "{}")
	w.want(http.StatusUnauthorized, "UNAUTHORIZED", "", http.MethodDelete, "/v2/acme/app/manifests/v1", nil)
	w.want(http.StatusUnauthorized, "UNAUTHORIZED", "carol", http.MethodDelete, "/v2/acme/app/manifests/v1", nil)
	w.want(http.StatusOK, "", "acme", http.MethodGet, "/v2/acme/secret/manifests/v1", nil)
	w.want(http.StatusOK, "", scoped, http.MethodGet, "/v2/acme/secret/tags/list", nil)

	if a := w.ask("", http.MethodGet, "/extensions/v2/acme/secret/signatures/"+secret, nil); a.status != http.StatusUnauthorized {
		t.Errorf("signatures of a private repository: %d", a.status)
	}

	// A right that is taken away is gone at once, whatever tokens say.
	if _, err := w.store.Accounts.PutUser(t.Context(), "acme", hash(), false, false); err != nil {
		t.Fatal(err)
	}
	w.want(http.StatusUnauthorized, "UNAUTHORIZED", scoped, http.MethodGet, "/v2/acme/secret/tags/list", nil)
	w.want(http.StatusUnauthorized, "UNAUTHORIZED", "acme", http.MethodGet, "/v2/acme/secret/tags/list", nil)
}

func TestAnonymousPullCanBeOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *proxy.Options) { o.AnonymousPull = auth.AnonymousPullOff })
	w.pushImage("acme/app", "one", "v1")
	w.want(http.StatusUnauthorized, "UNAUTHORIZED", "", http.MethodGet, "/v2/acme/app/manifests/v1", nil)
	if _, granted := w.token("", "repository:acme/app:pull"); !strings.Contains(granted, `"actions":[]`) {
		t.Errorf("nobody is granted %s", granted)
	}
	w.want(http.StatusOK, "", "carol", http.MethodGet, "/v2/acme/app/manifests/v1", nil)
}

// TestPrivateNamesLookAbsent proves that callers who may not read a private repository cannot tell it from an absent one: not by the token that they get for it, not by
// any answer, and not by the number of queries, although the private repository's own reads are remembered.
func TestPrivateNamesLookAbsent(t *testing.T) {
	t.Parallel()
	for _, mode := range []auth.AnonymousPull{auth.AnonymousPullOn, auth.AnonymousPullOff, auth.AnonymousPullWithToken} {
		t.Run("anonymous pull "+string(mode), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(o *proxy.Options) { o.AnonymousPull = mode })
			w.store.Serving.EnableCache()
			d := string(w.pushImage("acme/secret", "two", "v1"))
			w.private("acme/secret")
			w.want(http.StatusAccepted, "", "carol", http.MethodPost, "/v2/carol/own/blobs/uploads/", nil)
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
				{http.MethodGet, "/v2/NAME/tags/list", ""}, {http.MethodGet, "/v2/NAME/manifests/v1", ""}, {http.MethodHead, "/v2/NAME/manifests/v1", ""},
				{http.MethodGet, "/v2/NAME/manifests/" + d, ""}, {http.MethodGet, "/v2/NAME/blobs/" + d, ""}, {http.MethodHead, "/v2/NAME/blobs/" + d, ""},
				{http.MethodGet, "/v2/NAME/referrers/" + d, ""}, {http.MethodGet, "/extensions/v2/NAME/signatures/" + d, ""},
				{http.MethodPut, "/extensions/v2/NAME/signatures/" + d, "{}"}, {http.MethodPut, "/v2/NAME/manifests/v2", "{}"}, {http.MethodDelete, "/v2/NAME/manifests/v1", ""},
				{http.MethodDelete, "/v2/NAME/blobs/" + d, ""}, {http.MethodPost, "/v2/NAME/blobs/uploads/", ""},
				{http.MethodGet, "/v2/NAME/blobs/uploads/01a2053c-0f11-7553-bfbb-807cca916423", ""}, {http.MethodPatch, "/v2/NAME/blobs/uploads/01a2053c-0f11-7553-bfbb-807cca916423", "x"},
				{http.MethodPost, "/v2/carol/own/blobs/uploads/?from=NAME&mount=" + d, ""},
			}
			for _, r := range requests {
				for who := range bearers["secret"] {
					seen := func(name string) (answer, int64) {
						w.want(http.StatusOK, "", "acme", http.MethodGet, "/v2/acme/secret/manifests/v1", nil) // which is remembered
						before := w.store.DB.Reads()
						a := w.ask(bearers[name][who], r.method, strings.ReplaceAll(r.path, "NAME", "acme/"+name), r.body)
						return a, w.store.DB.Reads() - before
					}
					there, queries := seen("secret")
					not, wanted := seen("absent")
					same := func(a answer) string {
						return strings.ReplaceAll(a.body+a.header.Get("WWW-Authenticate"), "secret", "absent")
					}
					if there.status != not.status || same(there) != same(not) || queries != wanted {
						t.Errorf("%s %s by %s: %d %s after %d queries where it is private, %d %s after %d where it is absent",
							r.method, r.path, who, there.status, same(there), queries, not.status, same(not), wanted)
					}
					if there.status != http.StatusUnauthorized && !strings.Contains(r.path, "mount") {
						t.Errorf("%s %s by %s: %d, want 401", r.method, r.path, who, there.status)
					}
				}
			}
			// The owner of the namespace is told that the name is absent.
			w.want(http.StatusNotFound, "NAME_UNKNOWN", "acme", http.MethodGet, "/v2/acme/absent/tags/list", nil)
			w.want(http.StatusNotFound, "NAME_UNKNOWN", "admin", http.MethodGet, "/v2/acme/absent/tags/list", nil)
		})
	}
}

// TestAnonymousPullWithToken proves that with anonymous_pull: token every request without a token is challenged, and that the token service issues tokens for public
// repositories to everybody.
func TestAnonymousPullWithToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *proxy.Options) { o.AnonymousPull = auth.AnonymousPullWithToken })
	w.pushImage("acme/app", "one", "v1")
	w.pushImage("acme/other", "one", "v1")
	const path = "/v2/acme/app/manifests/v1"
	a := w.want(http.StatusUnauthorized, "UNAUTHORIZED", "", http.MethodGet, path, nil)
	if want := bearer + `,scope="repository:acme/app:pull"`; a.header.Get("WWW-Authenticate") != want {
		t.Errorf("challenge %s, want %s", a.header.Get("WWW-Authenticate"), want)
	}
	anonymous, _ := w.token("", "repository:acme/app:pull")
	w.want(http.StatusOK, "", anonymous, http.MethodGet, path, nil)
	w.want(http.StatusOK, "", "carol", http.MethodGet, path, nil)
	w.want(http.StatusUnauthorized, "UNAUTHORIZED", anonymous, http.MethodGet, "/v2/acme/other/manifests/v1", nil)
	narrow, _ := w.token("carol", "repository:acme/other:pull")
	w.want(http.StatusUnauthorized, "UNAUTHORIZED", narrow, http.MethodGet, path, nil)
}

// TestTokensOnly proves that registry.basic_auth: false refuses names and passwords on /v2/ and /extensions/, and only there.
func TestTokensOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := string(w.pushImage("acme/app", "one", "v1"))
	w.options.TokensOnly = true
	w.restart()
	for _, path := range []string{"/v2/", "/v2/acme/app/tags/list", "/extensions/v2/acme/app/signatures/" + d} {
		a := w.want(http.StatusUnauthorized, "UNAUTHORIZED", "admin", http.MethodGet, path, nil)
		if !strings.HasPrefix(a.header.Get("WWW-Authenticate"), bearer) || !strings.Contains(a.body, "get one at /token/") {
			t.Errorf("%s: challenge %s, body %s", path, a.header.Get("WWW-Authenticate"), a.body)
		}
		token, _ := w.token("admin", "repository:acme/app:pull")
		w.want(http.StatusOK, "", token, http.MethodGet, path, nil)
	}
}

// TestManyFirstPushes begins uploads to a new name at once, as clients that push several blobs do: all are taken, one made the repository,
// and the audit says so once.
func TestManyFirstPushes(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	w := newWorld(t, func(o *proxy.Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	push, _ := w.token("acme", "repository:acme/app:pull,push")
	const pushes = 8
	var group sync.WaitGroup
	for range pushes {
		group.Go(func() { w.want(http.StatusAccepted, "", push, http.MethodPost, "/v2/acme/app/blobs/uploads/", nil) })
	}
	group.Wait()
	w.server.Close() // which waits for the handlers
	if n := strings.Count(log.String(), `action="create repository"`); n != 1 {
		t.Errorf("the repository was made %d times:\n%s", n, log.String())
	}
}

// TestTokensEndWithTheirAccount proves that a token which the server has just accepted, and remembers, is refused as soon as the password of its
// account changes or the account is disabled.
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
		w.want(http.StatusAccepted, "", header, http.MethodPost, "/v2/carol/app/blobs/uploads/", nil)
		if _, err := w.store.Accounts.PutUser(t.Context(), "carol", tt.hash, false, tt.active); err != nil {
			t.Fatal(err)
		}
		a := w.want(http.StatusUnauthorized, "UNAUTHORIZED", header, http.MethodPost, "/v2/carol/app/blobs/uploads/", nil)
		if got := a.header.Get("WWW-Authenticate"); !strings.HasSuffix(got, `,error="invalid_token"`) {
			t.Errorf("%s: challenge %s", name, got)
		}
	}
}

// TestPushesPastObjectsWithTheirName proves that objects which have a path as their name, and serve another path or none, keep nobody from pushing to the path, whether
// the push begins with an upload or with a mount.
func TestPushesPastObjectsWithTheirName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	blob := w.pushBlob("acme/source", "layer")
	for _, path := range []string{"acme/app", "acme/mirror", "acme", "acme/mounted"} {
		remote, err := w.store.Catalog.CreateRemote(t.Context(), pulp.Remote{Name: path, URL: "https://x", UpstreamName: "a/b", Policy: pulp.OnDemand})
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
			w.want(http.StatusCreated, "", "acme", http.MethodPost, "/v2/"+path+"/blobs/uploads/?from=acme/source&mount="+string(blob), nil)
		}
		d := w.pushImage(path, path, "v1")
		w.want(http.StatusOK, "", "acme", http.MethodGet, "/v2/"+path+"/manifests/"+string(d), nil)
		w.want(http.StatusNotFound, "MANIFEST_UNKNOWN", "carol", http.MethodGet, "/v2/"+elsewhere+"/manifests/"+string(d), nil)
	}
	w.want(http.StatusUnauthorized, "UNAUTHORIZED", "carol", http.MethodPost, "/v2/nginx/blobs/uploads/", nil)
}
