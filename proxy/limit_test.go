package proxy_test

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// TestTooManyFailedLogins checks that after ten failed logins from an address its password logins get 429 on /v2/,
// /extensions/ and /token/, while anonymous requests, tokens and cached credentials are accepted.
func TestTooManyFailedLogins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pushImage("acme/app", "one", "v1")
	token, _ := w.token("acme", "repository:acme/app:pull")
	wrong := "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+strings.Repeat("x", 73)))
	for range 10 {
		w.expectError(request{as: wrong, path: "/v2/"}, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	limited := func(a response) {
		t.Helper()
		if after, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || after < 1 || after > 60 {
			t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
		}
	}
	for _, caller := range []string{wrong, "carol"} { // carol's password is correct but not cached
		for _, path := range []string{"/v2/", "/v2/acme/app/tags/list", "/extensions/v2/acme/app/signatures/sha256:" + strings.Repeat("0", 64)} {
			limited(w.expectError(request{as: caller, path: path}, http.StatusTooManyRequests, "TOOMANYREQUESTS"))
		}
		limited(
			w.expectError(request{as: caller, path: "/token/?service=x"}, http.StatusTooManyRequests, "TOOMANYREQUESTS"),
		) // docker shows the message only in this format
	}
	w.expect(request{path: "/v2/acme/app/tags/list"}, http.StatusOK)
	w.expect(request{as: token, path: "/v2/acme/app/tags/list"}, http.StatusOK)
	w.expect(request{path: "/token/?service=x&scope=repository:acme/app:pull"}, http.StatusOK)
	w.expect(request{as: "acme", path: "/v2/"}, http.StatusOK)
	w.expect(request{as: "acme", path: "/token/?service=x"}, http.StatusOK)
}
