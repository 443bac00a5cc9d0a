package api

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// noLogin refuses every login and counts them.
type noLogin struct{ asked int }

func (n *noLogin) Basic(*http.Request) (*pulp.User, error) {
	n.asked++
	return nil, fault.New(fault.Unauthenticated, "Invalid username/password.")
}

// TestOtherOriginsChangeNothing proves that every registered method of the API that may change something refuses a browser which acts for a page of another
// origin, before it looks at credentials; and that clients which are no browsers, and pages of public_url, pass.
func TestOtherOriginsChangeNothing(t *testing.T) {
	t.Parallel()
	login := &noLogin{}
	handler := newRouter(t, login)
	ask := func(method, path string, headers map[string]string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), method, "http://proxied.internal"+path, strings.NewReader("name=x"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded") // what a form on any page can send
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
		for what, headers := range map[string]map[string]string{
			"cross-site":     {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
			"same-site":      {"Sec-Fetch-Site": "same-site", "Origin": "https://other.example"},
			"an old browser": {"Origin": "https://evil.example"},
			"no origin":      {"Origin": "null"},
		} {
			if w := ask(method, path, headers); w.Code != http.StatusForbidden || w.Body.String() != `{"detail":"`+auth.OtherOrigin+`"}` {
				t.Errorf("%s: %s %s: %d %s", what, method, path, w.Code, w.Body)
			}
		}
		if login.asked != before {
			t.Errorf("%s %s looked at the credentials", method, path)
		}
		for what, headers := range map[string]map[string]string{
			"no browser":           nil,
			"the page itself":      {"Sec-Fetch-Site": "same-origin", "Origin": "https://registry.example:8443"},
			"a page of public_url": {"Origin": "https://registry.example:8443"},
		} {
			if w := ask(method, path, headers); w.Code != http.StatusUnauthorized {
				t.Errorf("%s: %s %s: %d %s", what, method, path, w.Code, w.Body)
			}
		}
	}
	if mutating < 30 {
		t.Errorf("%d methods were tried", mutating)
	}
}
