package registryclient

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestMayReceivePassword proves that only the scheme, host and port of the registry receive the password without a
// rule of the caller.
func TestMayReceivePassword(t *testing.T) {
	t.Parallel()
	tests := []struct {
		base, realm string
		want        bool
	}{
		{base: "https://registry.example.com", realm: "https://registry.example.com/token", want: true},
		{base: "https://registry.example.com", realm: "http://registry.example.com/token"},
		{base: "https://registry.example.com", realm: "https://registry.example.com:8443/token"},
		{base: "https://registry.example.com", realm: "https://auth.example.com/token"},
		{base: "https://example.co.uk", realm: "https://anybody.co.uk/token"},
		{base: "https://registry.example.com", realm: "https://elsewhere.test/token"},
		{base: "https://registry.example.com", realm: "https://Registry.Example.com:443/token", want: true},
		{base: "https://registry.example.com:443", realm: "https://registry.example.com/token", want: true},
		{base: "http://registry.example.com:80", realm: "http://registry.example.com/token", want: true},
		{base: "http://registry.example.com", realm: "http://registry.example.com:443/token"},
		{base: "https://registry.example.com", realm: "https://registry.example.com:80/token"},
		{base: "https://registry.example.com", realm: "https://registry.example.com:4430/token"},
		{base: "https://[2001:db8::1]", realm: "https://[2001:db8::1]:443/token", want: true},
		{base: "https://[2001:db8::443]", realm: "https://[2001:db8::]/token"},
	}
	for _, tt := range tests {
		base, err := url.Parse(tt.base)
		realm, err2 := url.Parse(tt.realm)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if got := NewCredentials(base, nil, Login{Username: "robot"}).mayReceivePassword(realm); got != tt.want {
			t.Errorf("%s may receive the password of %s = %t, want %t", tt.realm, tt.base, got, tt.want)
		}
	}
}

// transport is a function that answers requests.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// FuzzChallenge proves that no challenge sends the password of a registry to a host outside of its domain or without
// https.
func FuzzChallenge(f *testing.F) {
	for _, seed := range []string{
		`Bearer realm="https://auth.example.com/token",service="s",scope="repository:a:pull"`,
		`Basic realm="x"`,
		`Bearer realm="https://evil.test/token"`,
		`bearer realm="//evil.test"`,
		`Bearer realm="https://u:p@registry.example.com/token?x=y"`,
		`Bearer realm="http://registry.example.com/token"`,
		`Bearer realm="https://registry.example.com.evil.test/token"`,
		`Bearer realm=",realm="`,
		`Bearer realm="https://registry.example.com@evil.test/"`,
	} {
		f.Add(seed)
	}
	base, _ := url.Parse("https://registry.example.com")
	at, _ := url.Parse("https://registry.example.com/v2/a/tags/list?n=1000")
	f.Fuzz(func(t *testing.T, challenge string) {
		client := &http.Client{Transport: transport(func(r *http.Request) (*http.Response, error) {
			host := strings.ToLower(r.URL.Hostname())
			ours := r.URL.Scheme == "https" && (host == "example.com" || strings.HasSuffix(host, ".example.com"))
			if _, password, _ := r.BasicAuth(); password == "hunter2" && !ours {
				t.Errorf("%q sends the password to %s", challenge, r.URL)
			}
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(`{"token":"x"}`)), Request: r}, nil
		})}
		c := NewCredentials(base, client, Login{
			Username: "robot", Password: func() (string, error) { return "hunter2", nil },
			Trusts: func(realm *url.URL) bool { return SameDomain(realm, base) },
		})
		res := respond(http.StatusUnauthorized, "", "WWW-Authenticate", challenge)
		if err := c.HandleChallenge(res, nil); err != nil {
			return
		}
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, at.String(), nil)
		_ = c.Authorize(t.Context(), r, []string{"repository:a:pull"})
	})
}
