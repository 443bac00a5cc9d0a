package proxy

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/auth"
)

// TestOtherOriginsChangeNothing checks that every method that may change something rejects cross-origin requests of
// browsers before authentication, in the error format of its path, and accepts requests of other clients and of pages
// of public_url.
func TestOtherOriginsChangeNothing(t *testing.T) {
	t.Parallel()
	digest := "sha256:" + strings.Repeat("0", 64)
	paths := map[routeKind]string{
		routeToken: "/token/", routeBase: "/v2/", routeCatalog: "/v2/_catalog", routeTags: "/v2/acme/app/tags/list", routeUploads: "/v2/acme/app/blobs/uploads/",
		routeUpload: "/v2/acme/app/blobs/uploads/x", routeBlob: "/v2/acme/app/blobs/" + digest, routeManifest: "/v2/acme/app/manifests/v1",
		routeReferrers: "/v2/acme/app/referrers/" + digest, routeSignatures: "/extensions/v2/acme/app/signatures/" + digest,
	}
	registry := New(
		Options{
			PublicURL: &url.URL{Scheme: "https", Host: "registry.example:8443"},
			Log:       slog.New(slog.DiscardHandler),
			Auth:      auth.New(noAccounts{}, slog.New(slog.DiscardHandler)),
		},
	)
	// Credentials of an unknown scheme get 401 without access to the store.
	ask := func(method, path string, headers map[string]string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), method, "http://proxied.internal"+path, nil)
		r.Header.Set("Authorization", "Digest x")
		for k, v := range headers {
			r.Header.Set(k, v)
		}
		w := httptest.NewRecorder()
		registry.ServeHTTP(w, r)
		return w
	}
	mutating := 0
	for kind, methods := range handlers {
		path, ok := paths[kind]
		if parsed, err := parsePath(&url.URL{Path: path}); !ok || err != nil || parsed.kind != kind {
			t.Errorf("kind %d has no path in this test", kind)
			continue
		}
		all := []string{http.MethodPost} // even for paths without POST
		for method := range methods {
			if method != http.MethodGet && !slices.Contains(all, method) {
				all = append(all, method)
			}
		}
		for _, method := range all {
			mutating++
			for name, headers := range map[string]map[string]string{
				"cross-site":     {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
				"same-site":      {"Sec-Fetch-Site": "same-site", "Origin": "https://other.example"},
				"an old browser": {"Origin": "https://evil.example"},
				"no origin":      {"Origin": "null"},
				"another scheme": {"Sec-Fetch-Site": "cross-site", "Origin": "http://registry.example:8443"},
			} {
				w := ask(method, path, headers)
				want := `{"errors":[{"code":"DENIED","message":"` + auth.OtherOrigin + `","detail":{}}]}`
				if kind == routeToken {
					want = `{"detail":"` + auth.OtherOrigin + `"}`
				}
				if w.Code != http.StatusForbidden || strings.ReplaceAll(w.Body.String(), `\u0027`, `'`) != want {
					t.Errorf("%s: %s %s: %d %s", name, method, path, w.Code, w.Body)
				}
			}
			for name, headers := range map[string]map[string]string{
				"no browser":                    nil,
				"the page itself":               {"Sec-Fetch-Site": "same-origin", "Origin": "https://registry.example:8443"},
				"a page of public_url":          {"Sec-Fetch-Site": "cross-site", "Origin": "https://registry.example:8443"},
				"a page, by an old browser":     {"Origin": "https://registry.example:8443"},
				"the host that the request has": {"Origin": "https://proxied.internal"},
			} {
				if w := ask(method, path, headers); w.Code == http.StatusForbidden || w.Code >= 500 {
					t.Errorf("%s: %s %s: %d %s", name, method, path, w.Code, w.Body)
				}
			}
		}
	}
	if mutating < 14 {
		t.Errorf("%d methods were tried", mutating)
	}
	if w := ask(http.MethodGet, "/v2/", map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}); w.Code != http.StatusUnauthorized {
		t.Errorf("a read from another origin: %d", w.Code)
	}
}

// noAccounts are the accounts of a server without any.
type noAccounts struct{ auth.Accounts }

// OnChange implements auth.Accounts.
func (noAccounts) OnChange(func()) {}
