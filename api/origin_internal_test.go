package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// noLogin refuses every login and counts the calls.
type noLogin struct{ asked int }

func (n *noLogin) Basic(*http.Request) (*access.Caller, error) {
	n.asked++
	return nil, fault.New(fault.Unauthenticated, "Invalid username/password.")
}

// TestOtherOriginsChangeNothing proves that every route with a method that may change something refuses requests
// which a browser sends for a page of another origin, before it verifies credentials; and that it accepts other
// clients and pages of public_url.
func TestOtherOriginsChangeNothing(t *testing.T) {
	t.Parallel()
	login := &noLogin{}
	handler := newRouter(t, login)
	ask := func(method, path string, headers map[string]string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), method, "http://proxied.internal"+path, strings.NewReader("name=x"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded") // the type that any page's form can send
		r.SetBasicAuth("admin", "secret")
		for k, v := range headers {
			r.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w
	}
	mutating := 0
	for _, route := range servedRoutes(handler) {
		method, path, _ := strings.Cut(route, " ")
		if method == http.MethodGet {
			continue
		}
		mutating++
		path = strings.ReplaceAll(path, "{}", "x")
		before := login.asked
		for name, headers := range map[string]map[string]string{
			"cross-site":     {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
			"same-site":      {"Sec-Fetch-Site": "same-site", "Origin": "https://other.example"},
			"an old browser": {"Origin": "https://evil.example"},
			"no origin":      {"Origin": "null"},
		} {
			if w := ask(
				method, path, headers,
			); w.Code != http.StatusForbidden || w.Body.String() != `{"detail":"`+auth.OtherOrigin+`"}` {
				t.Errorf("%s: %s %s: %d %s", name, method, path, w.Code, w.Body)
			}
		}
		if login.asked != before {
			t.Errorf("%s %s: the credentials were verified", method, path)
		}
		for name, headers := range map[string]map[string]string{
			"no browser":           nil,
			"the page itself":      {"Sec-Fetch-Site": "same-origin", "Origin": "https://registry.example:8443"},
			"a page of public_url": {"Origin": "https://registry.example:8443"},
		} {
			want := http.StatusUnauthorized
			if path == pulp.Root+"oidc/login/" { // open, and not configured here
				want = http.StatusNotFound
			}
			if w := ask(method, path, headers); w.Code != want {
				t.Errorf("%s: %s %s: %d %s", name, method, path, w.Code, w.Body)
			}
		}
	}
	if mutating < 30 {
		t.Errorf("%d methods were tried", mutating)
	}
}
