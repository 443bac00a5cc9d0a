package auth_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/countersign/countersign/internal/auth"
)

// TestOriginsWithDefaultPorts checks that requests from pages of the server are allowed if the public URL contains the
// default port, which browsers omit, and if a proxy changes the Host header.
func TestOriginsWithDefaultPorts(t *testing.T) {
	t.Parallel()
	for public, want := range map[string]map[string]bool{
		"http://registry:80":           {"http://registry": true, "http://registry:8080": false, "https://registry": false},
		"https://registry:443":         {"https://registry": true, "http://registry": false},
		"https://[2001:db8::1]":        {"https://[2001:db8::1]": true},
		"https://registry.example:444": {"https://registry.example:444": true, "https://registry.example": false},
	} {
		u, err := url.Parse(public)
		if err != nil {
			t.Fatal(err)
		}
		origins, err := auth.NewOrigins(u)
		if err != nil {
			t.Fatal(err)
		}
		for origin, allowed := range want {
			r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:24817/", nil)
			r.Header.Set("Origin", origin)
			if got := origins.Allows(r); got != allowed {
				t.Errorf("%s: a request of %s is allowed: %v, want %v", public, origin, got, allowed)
			}
		}
	}
}
