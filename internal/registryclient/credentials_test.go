package registryclient

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestMayReceivePassword(t *testing.T) {
	t.Parallel()
	cases := []struct {
		base, realm string
		want        bool
	}{
		{"https://registry.example.com", "https://registry.example.com/token", true},
		{"https://registry.example.com", "http://registry.example.com/token", false},
		{"https://registry.example.com", "https://registry.example.com:8443/token", false},
		{"https://registry.example.com", "https://auth.example.com/token", false},
		{"https://example.co.uk", "https://anybody.co.uk/token", false},
		{"https://registry.example.com", "https://elsewhere.test/token", false},
		{"https://registry.example.com", "https://Registry.Example.com:443/token", true},
		{"https://registry.example.com:443", "https://registry.example.com/token", true},
		{"http://registry.example.com:80", "http://registry.example.com/token", true},
		{"http://registry.example.com", "http://registry.example.com:443/token", false},
		{"https://registry.example.com", "https://registry.example.com:80/token", false},
		{"https://registry.example.com", "https://registry.example.com:4430/token", false},
		{"https://[2001:db8::1]", "https://[2001:db8::1]:443/token", true},
		{"https://[2001:db8::443]", "https://[2001:db8::]/token", false},
	}
	for _, c := range cases {
		base, err := url.Parse(c.base)
		realm, err2 := url.Parse(c.realm)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if got := NewCredentials(base, nil, Login{Username: "robot"}).mayReceivePassword(realm); got != c.want {
			t.Errorf("%s may know the password of %s = %t, want %t", c.realm, c.base, got, c.want)
		}
	}
}

// transport answers requests.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Whatever a remote writes into its challenge, its password goes to it and its domain alone.
func FuzzChallenge(f *testing.F) {
	for _, seed := range []string{
		`Bearer realm="https://auth.example.com/token",service="s",scope="repository:a:pull"`, `Basic realm="x"`, `Bearer realm="https://evil.test/token"`, `bearer realm="//evil.test"`,
		`Bearer realm="https://u:p@registry.example.com/token?x=y"`, `Bearer realm="http://registry.example.com/token"`, `Bearer realm="https://registry.example.com.evil.test/token"`,
		`Bearer realm=",realm="`, `Bearer realm="https://registry.example.com@evil.test/"`,
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
		if err := c.HandleChallenge(&http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": {challenge}}}, nil); err != nil {
			return
		}
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, at.String(), nil)
		_ = c.Authorize(t.Context(), r, []string{"repository:a:pull"})
	})
}
