package mirror_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// TestTokenServiceOfTheRemote proves that the remote's own token service receives the password, and that its token is
// cached.
func TestTokenServiceOfTheRemote(t *testing.T) {
	t.Parallel()
	var fetched atomic.Int64
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			user, password, _ := r.BasicAuth()
			if user != "robot" || password != secret || r.URL.Query().Get("scope") != "repository:src/app:pull" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			fetched.Add(1)
			_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "good", "expires_in": 300})
			return
		}
		if r.Header.Get("Authorization") != "Bearer good" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="x",scope="other"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{"tags":["a","b"]}`)
	}))
	defer s.Close()
	g := open127(t, s.URL)
	for range 3 {
		if tags, err := g.Tags(t.Context()); err != nil || len(tags) != 2 {
			t.Fatal(tags, err)
		}
	}
	if fetched.Load() != 1 {
		t.Errorf("%d token requests, want 1", fetched.Load())
	}
	wrong := open127(t, s.URL, func(r *pulp.Remote) { p := "wrong-" + secret; r.Secrets.Password = &p })
	if _, err := wrong.Tags(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "401, message='Unauthorized', url='"+s.URL+"/token'") || strings.Contains(err.Error(), secret) {
		t.Errorf("a wrong password: %v", err)
	}
}

// TestTokenResponses proves that malformed and endless responses of token services end with an error.
func TestTokenResponses(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	for name, c := range map[string]struct {
		token func(w http.ResponseWriter)
		want  string // in the error; empty: no error
		asked int64  // requests to the token service; 0: any number
	}{
		"endless": {token: func(w http.ResponseWriter) { endless(w, strings.Repeat(" ", 64<<10)) }, want: "token service"},
		"huge": {
			token: func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"token":"`+strings.Repeat("x", 2<<20)+`"}`) },
			want:  "token service",
		},
		"without a token": {token: func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{}`) }, want: "no token", asked: 1},
		"a refused token": {
			token: func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"token":"stale"}`) },
			want:  "401, message='Unauthorized', url='http://127.0.0.1:", asked: 1,
		},
		"404": {token: func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }, want: "404, message='Not Found'", asked: 1},
		"503 once": {asked: 2, token: func(w http.ResponseWriter) {
			if asked.Load() == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			_, _ = io.WriteString(w, `{"token":"good"}`)
		}},
		"a token with line breaks": {
			token: func(w http.ResponseWriter) { _, _ = io.WriteString(w, `{"token":"a\r\nX: y"}`) }, want: "Cannot reach the remote",
		},
	} {
		asked.Store(0)
		var s *httptest.Server
		s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/token":
				asked.Add(1)
				c.token(w)
			case r.Header.Get("Authorization") == "Bearer good":
				oneTag(w, r)
			default:
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="x"`)
				w.WriteHeader(http.StatusUnauthorized)
			}
		}))
		_, err := open127(t, s.URL, func(r *pulp.Remote) { r.Connection.MaxRetries = ptr(int64(1)) }).Tags(t.Context())
		if c.want == "" && err != nil || c.want != "" && (!fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), c.want)) || c.asked > 0 && asked.Load() != c.asked {
			t.Errorf("%s: %v after %d token requests", name, err, asked.Load())
		}
		s.Close()
	}
}

// TestTokenServiceOnAnotherHost proves that such a service is asked without the password, and not at a private address.
func TestTokenServiceOnAnotherHost(t *testing.T) {
	t.Parallel()
	elsewhere := newWitness(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"token":"anonymous"}`) })
	for name, realm := range map[string]string{"another port": elsewhere.URL + "/token", "a private address": "http://169.254.169.254/token", "no URL": "x", "another scheme": "ftp://127.0.0.1/"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "Bearer anonymous" {
				_, _ = io.WriteString(w, `{"tags":[]}`)
				return
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}))
		_, err := open127(t, s.URL).Tags(t.Context())
		if (name == "another port") != (err == nil) || err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
		s.Close()
	}
	elsewhere.check(t, true)
}

// TestTokenServiceMayNotRedirect proves that a redirect of a token service to another host is refused, even for a
// blob, which may be on another host.
func TestTokenServiceMayNotRedirect(t *testing.T) {
	t.Parallel()
	other := newWitness(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"token":"x"}`) })
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			http.Redirect(w, r, other.URL, http.StatusFound)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer s.Close()
	if _, err := open127(t, s.URL).Blob(t.Context(), digest.FromString("x"), 1); !fault.Is(err, fault.Denied) {
		t.Error(err)
	}
	other.check(t, false)
}

// TestTokenHosts proves that a token service in the remote's token_hosts receives the password: over https, or over
// http if the remote itself speaks http. Others do not receive it.
func TestTokenHosts(t *testing.T) {
	t.Parallel()
	var told []string
	token := func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); ok {
			told = append(told, user+":"+password)
		}
		_, _ = io.WriteString(w, `{"token":"good"}`)
	}
	plain := httptest.NewServer(http.HandlerFunc(token))
	defer plain.Close()
	safe, safeCA, _ := tlsServer(t, token)
	guarded := func(realm string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer good" {
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`/token",service="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			oneTag(w, r)
		}
	}
	host := func(url string) string { _, host, _ := strings.Cut(url, "://"); return host }
	for name, c := range map[string]struct {
		https bool // the scheme of the remote
		realm string
		hosts []string
		told  bool // the token service receives the password
	}{
		"not named":                    {realm: plain.URL},
		"another is named":             {realm: plain.URL, hosts: []string{"auth.example.com", "127.0.0.1"}},
		"named, http from http":        {realm: plain.URL, hosts: []string{"auth.example.com", host(plain.URL)}, told: true},
		"named, https from http":       {realm: safe.URL, hosts: []string{host(safe.URL)}, told: true},
		"named, https from https":      {https: true, realm: safe.URL, hosts: []string{host(safe.URL)}, told: true},
		"named, but http from https":   {https: true, realm: plain.URL, hosts: []string{host(plain.URL)}},
		"not named, https from https":  {https: true, realm: safe.URL, hosts: []string{}},
		"another port, https of https": {https: true, realm: safe.URL, hosts: []string{"127.0.0.1:1"}},
	} {
		told = nil
		var s *httptest.Server
		ca := safeCA
		if c.https {
			var own string
			s, own, _ = tlsServer(t, guarded(c.realm))
			ca += own
		} else {
			s = httptest.NewServer(guarded(c.realm))
			t.Cleanup(s.Close)
		}
		g := open127(t, s.URL, func(r *pulp.Remote) { r.Connection.CACert, r.Connection.TokenHosts = &ca, c.hosts })
		if tags, err := g.Tags(t.Context()); err != nil || len(tags) != 1 {
			t.Errorf("%s: %v, %v", name, tags, err)
		}
		if c.told != (len(told) == 1 && told[0] == "robot:"+secret) || !c.told && len(told) > 0 {
			t.Errorf("%s: the token service receives %v", name, told)
		}
	}
}
