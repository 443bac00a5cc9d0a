package proxy_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/proxy"
)

func TestTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pushImage("acme/app", "one", "v1")
	w.pushImage("acme/secret", "one", "v1")
	w.setPrivate("acme/secret")
	const none = `,"actions":[]}]`
	tests := map[string]struct {
		caller, scope, want string
	}{
		"anonymous pull from public": {
			scope: "repository:acme/app:pull",
			want:  `[{"type":"repository","name":"acme/app","actions":["pull"]}]`,
		},
		"anonymous push": {
			scope: "repository:acme/app:pull,push",
			want:  `[{"type":"repository","name":"acme/app","actions":["pull"]}]`,
		},
		"anonymous pull from private": {
			scope: "repository:acme/secret:pull",
			want:  `[{"type":"repository","name":"acme/secret"` + none,
		},
		"anonymous pull from absent": {
			scope: "repository:acme/none:pull",
			want:  `[{"type":"repository","name":"acme/none"` + none,
		},
		"push brings pull": {
			caller: "admin",
			scope:  "repository:acme/app:push",
			want:   `[{"type":"repository","name":"acme/app","actions":["push","pull"]}]`,
		},
		"a namespace of one's own": {
			caller: "carol",
			scope:  "repository:carol/new:push",
			want:   `[{"type":"repository","name":"carol/new","actions":["push","pull"]}]`,
		},
		"a namespace of another's": {
			caller: "carol",
			scope:  "repository:acme/app:push",
			want:   `[{"type":"repository","name":"acme/app"` + none,
		},
		"a private one of another's": {
			caller: "carol",
			scope:  "repository:acme/secret:pull",
			want:   `[{"type":"repository","name":"acme/secret","actions":["pull"]}]`,
		},
		"one that is absent": {
			caller: "carol",
			scope:  "repository:acme/none:pull",
			want:   `[{"type":"repository","name":"acme/none","actions":["pull"]}]`,
		},
		"the catalog": {
			caller: "carol",
			scope:  "registry:catalog:*",
			want:   `[{"type":"registry","name":"catalog","actions":["*"]}]`,
		},
		"the catalog, anonymous": {
			scope: "registry:catalog:*",
			want:  `[{"type":"registry","name":"catalog"` + none,
		},
		"another kind": {
			caller: "admin",
			scope:  "registry:x:*",
			want:   `[{"type":"registry","name":"x"` + none,
		},
		"an invalid name": {
			caller: "admin",
			scope:  "repository:../x:pull",
			want:   `[{"type":"repository","name":"../x"` + none,
		},
		"a malformed scope voids all": {caller: "admin", scope: "repository:acme/app:pull foo", want: `[]`},
		"a plugin": {
			caller: "admin",
			scope:  "repository(plugin):acme/app:pull,push",
			want:   `[{"type":"repository","class":"plugin","name":"acme/app","actions":["push","pull"]}]`,
		},
		"a plugin of another's": {
			caller: "carol",
			scope:  "repository(plugin):acme/app:push",
			want:   `[{"type":"repository","class":"plugin","name":"acme/app"` + none,
		},
		"another class": {
			caller: "admin",
			scope:  "repository(x):acme/app:pull",
			want:   `[{"type":"repository(x)","name":"acme/app"` + none,
		},
		"a star": {
			caller: "carol",
			scope:  "repository:acme/app:*",
			want:   `[{"type":"repository","name":"acme/app","actions":["pull"]}]`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, got := w.token(tt.caller, tt.scope); got != tt.want {
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
			t.Errorf("%s: %+v, want a redirect to %s", from, a, to)
		}
	}
}

// TestAnonymousPullWithToken checks that with anonymous_pull: token every request without a token is challenged, and
// that every caller can get a token for public repositories.
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

// TestTokensOnly checks that registry.basic_auth: false rejects Basic credentials on /v2/ and /extensions/ but not on
// /token/.
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

// TestTokensEndWithTheirAccount checks that a cached token is rejected as soon as the password of its account changes
// or the account is disabled.
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
