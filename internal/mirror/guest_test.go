package mirror_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
)

// redirecting is a registry that redirects every request to another host, as registry.k8s.io does. The other host
// wants anonymous tokens from a token service of its own.
type redirecting struct {
	front, back, service *witness
	manifest             string

	mu     sync.Mutex
	tokens int
	scopes []string
}

func newRedirecting(t *testing.T) *redirecting {
	t.Helper()
	f := &redirecting{manifest: `{"schemaVersion":2}`}
	f.service = newWitness(t, func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.tokens++
		f.scopes = append(f.scopes, r.URL.Query().Get("scope"))
		f.mu.Unlock()
		_, _ = io.WriteString(w, `{"token":"anonymous"}`)
	})
	back := http.NewServeMux()
	back.HandleFunc("GET /v2/prod/images/app/tags/list", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("last") == "" {
			w.Header().Set("Link", `</v2/prod/images/app/tags/list?last=a>; rel="next"`)
			_, _ = io.WriteString(w, `{"tags":["a"]}`)
			return
		}
		_, _ = io.WriteString(w, `{"tags":["b"]}`)
	})
	back.HandleFunc("GET /v2/prod/images/app/manifests/{reference}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", pulp.OCIManifest)
		if r.PathValue("reference") == "silent" && r.Method == http.MethodHead {
			return
		}
		w.Header().Set("Docker-Content-Digest", string(digest.FromString(f.manifest)))
		_, _ = io.WriteString(w, f.manifest)
	})
	back.HandleFunc("GET /v2/prod/images/app/blobs/{digest}", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "layer") })
	f.back = newWitness(t, nil)
	f.back.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, _, ok := r.BasicAuth(); ok || r.Header.Get("X-Token") != "" {
			t.Errorf("the other host receives the credentials of %q and %q", user, r.Header.Get("X-Token"))
		}
		if r.Header.Get("Authorization") != "Bearer anonymous" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+f.service.URL+`/v2/token",service="back",scope="repository:prod/images/app:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		back.ServeHTTP(w, r)
	})
	f.front = newWitness(t, nil)
	f.front.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "robot" || password != secret {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, f.back.URL+strings.Replace(r.URL.Path, "/src/app/", "/prod/images/app/", 1), http.StatusTemporaryRedirect) // without the query, as registry.k8s.io does
	})
	return f
}

// TestAnonymousTokens proves that tags, manifests and blobs are read from the host of a redirect with an anonymous
// token of that host, which does not receive the remote's credentials.
func TestAnonymousTokens(t *testing.T) {
	t.Parallel()
	f := newRedirecting(t)
	g := open127(t, f.front.URL, func(r *pulp.Remote) { r.Connection.Headers = []map[string]string{{"X-Token": secret}} })
	if tags, err := g.Tags(t.Context()); err != nil || strings.Join(tags, " ") != "a b" {
		t.Errorf("tags %v, %v", tags, err)
	}
	want := digest.FromString(f.manifest)
	if d, err := g.Head(t.Context(), "a"); err != nil || d.Digest != want {
		t.Errorf("HEAD: %+v, %v", d, err)
	}
	if d, m, err := g.Resolve(t.Context(), "silent"); err != nil || d != want || m == nil || string(m.Payload) != f.manifest {
		t.Errorf("resolved %s %+v, %v", d, m, err)
	}
	if m, err := g.Manifest(t.Context(), string(want)); err != nil || m.Digest != want || m.MediaType != pulp.OCIManifest {
		t.Errorf("manifest %+v, %v", m, err)
	}
	if _, err := g.Manifest(t.Context(), string(digest.FromString("another"))); !fault.Is(err, fault.Unavailable) {
		t.Errorf("other bytes for a digest: %v", err)
	}
	body, err := g.Blob(t.Context(), digest.FromString("layer"), 5)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(body); err != nil || string(got) != "layer" {
		t.Errorf("blob %q, %v", got, err)
	}
	_ = body.Close()
	f.service.check(t, true)
	if f.tokens != 1 || f.scopes[0] != "repository:prod/images/app:pull" {
		t.Errorf("%d tokens for %v", f.tokens, f.scopes)
	}
}

// TestGuestsGetNoPassword proves that a challenge of the host of a redirect sends the password neither to that host
// nor to its token service.
func TestGuestsGetNoPassword(t *testing.T) {
	t.Parallel()
	for name, challenge := range map[string]string{
		"Basic":   `Basic realm="x"`,
		"Bearer":  `Bearer realm="%s/token",service="x"`,
		"nothing": ``,
	} {
		var other *witness
		other = newWitness(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				_, _ = io.WriteString(w, `{"token":"x"}`)
				return
			}
			if challenge != "" {
				text := challenge
				if strings.Contains(text, "%s") {
					text = fmt.Sprintf(text, other.URL)
				}
				w.Header().Set("WWW-Authenticate", text)
			}
			w.WriteHeader(http.StatusUnauthorized)
		})
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, _, ok := r.BasicAuth(); !ok {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			http.Redirect(w, r, other.URL+r.URL.Path, http.StatusFound)
		}))
		g := open127(t, s.URL)
		if _, err := g.Manifest(t.Context(), "a"); !fault.Is(err, fault.Unavailable) || !strings.HasPrefix(err.Error(), "401, ") {
			t.Errorf("%s: %v", name, err)
		}
		other.mu.Lock()
		for _, told := range other.told {
			if told != "Authorization: Bearer x" {
				t.Errorf("%s: the other host receives %s", name, told)
			}
		}
		if other.asked == 0 {
			t.Errorf("%s: the other host got no request", name)
		}
		other.mu.Unlock()
		s.Close()
	}
}

// TestGuestTokenServicesNeedHTTPS proves that a host with https may not name a token service without.
func TestGuestTokenServicesNeedHTTPS(t *testing.T) {
	t.Parallel()
	never := newWitness(t, nil)
	s, ca, _ := tlsServer(t, nil)
	other, otherCA, _ := tlsServer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+never.URL+`/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusFound)
	})
	both := ca + otherCA
	g := open127(t, s.URL, func(r *pulp.Remote) { r.Connection.CACert = &both })
	if _, err := g.Manifest(t.Context(), "a"); !fault.Is(err, fault.Denied) {
		t.Error(err)
	}
	never.check(t, false)
}

// TestRedirectsToNewHosts proves that a remote that redirects each attempt to a new host, which wants a token, cannot
// make a request endless.
func TestRedirectsToNewHosts(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	service := newWitness(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"token":"anonymous"}`) })
	back := newWitness(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+service.URL+`/token",service="back"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	_, port, err := net.SplitHostPort(back.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	front := newWitness(t, nil)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	front.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := asked.Add(1)
		if n > 1000 {
			stop()
		}
		http.Redirect(w, r, fmt.Sprintf("http://h%d.example:%s%s", n, port, r.URL.Path), http.StatusTemporaryRedirect)
	})
	g := open(t, front.URL, mirror.Options{AllowPrivate: loopback, Lookup: func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}})
	if _, err := g.Manifest(ctx, "v1"); !fault.Is(err, fault.Unavailable) || ctx.Err() != nil {
		t.Errorf("the remote got %d requests for one manifest: %v", asked.Load(), err)
	}
}
