package mirror_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

// A token service that the remote names among its token_hosts receives the password, over https, or also over http
// when the remote itself speaks http. Others do not.
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
		https bool // the remote's own scheme
		realm string
		hosts []string
		told  bool
	}{
		"not named":                    {false, plain.URL, nil, false},
		"another is named":             {false, plain.URL, []string{"auth.example.com", "127.0.0.1"}, false},
		"named, http from http":        {false, plain.URL, []string{"auth.example.com", host(plain.URL)}, true},
		"named, https from http":       {false, safe.URL, []string{host(safe.URL)}, true},
		"named, https from https":      {true, safe.URL, []string{host(safe.URL)}, true},
		"named, but http from https":   {true, plain.URL, []string{host(plain.URL)}, false},
		"not named, https from https":  {true, safe.URL, []string{}, false},
		"another port, https of https": {true, safe.URL, []string{"127.0.0.1:1"}, false},
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
			t.Errorf("%s: the token service is told %v", name, told)
		}
	}
}
