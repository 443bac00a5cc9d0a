package proxy_test

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// TestTooManyFailedLogins proves that after ten failed logins from an address its passwords are refused with 429, on
// /v2/, /extensions/ and /token/, and that anonymous requests, tokens and credentials that were verified recently are
// not.
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
	for _, who := range []string{wrong, "carol"} { // carol's password is right, and has not been verified
		for _, path := range []string{"/v2/", "/v2/acme/app/tags/list", "/extensions/v2/acme/app/signatures/sha256:" + strings.Repeat("0", 64)} {
			limited(w.expectError(request{as: who, path: path}, http.StatusTooManyRequests, "TOOMANYREQUESTS"))
		}
		limited(
			w.expectError(request{as: who, path: "/token/?service=x"}, http.StatusTooManyRequests, "TOOMANYREQUESTS"),
		) // docker shows a reason only in this shape
	}
	w.expect(request{path: "/v2/acme/app/tags/list"}, http.StatusOK)
	w.expect(request{as: token, path: "/v2/acme/app/tags/list"}, http.StatusOK)
	w.expect(request{path: "/token/?service=x&scope=repository:acme/app:pull"}, http.StatusOK)
	w.expect(request{as: "acme", path: "/v2/"}, http.StatusOK)
	w.expect(request{as: "acme", path: "/token/?service=x"}, http.StatusOK)
}
