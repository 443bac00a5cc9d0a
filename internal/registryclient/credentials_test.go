package registryclient

import (
	"errors"
	"net/url"
	"testing"
)

func TestWhoMayKnowThePassword(t *testing.T) {
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
		if got := New(base, nil, "robot", "secret", nil).mayKnow(realm); got != c.want {
			t.Errorf("%s may know the password of %s = %t, want %t", c.realm, c.base, got, c.want)
		}
	}
}

func TestOneOf(t *testing.T) {
	t.Parallel()
	hosts := []string{"", "auth.example.com", "Other.example.com:8443", "plain.example.com:443", "[2001:db8::1]:5001"}
	for at, want := range map[string]bool{
		"https://auth.example.com/token":        true,
		"https://AUTH.example.com:443/token":    true,
		"http://auth.example.com/token":         true, // the scheme is for the caller to judge
		"https://auth.example.com:8443/token":   false,
		"https://other.example.com:8443/token":  true,
		"https://other.example.com/token":       false,
		"https://plain.example.com/token":       true,
		"http://plain.example.com/token":        false,
		"https://[2001:db8::1]:5001/token":      true,
		"https://sub.auth.example.com/token":    false,
		"https://auth.example.com.test/token":   false,
		"https://auth.example.com@x.test/token": false,
		"https:///token":                        false,
	} {
		u, err := url.Parse(at)
		if err != nil {
			t.Fatal(err)
		}
		if got := OneOf(u, hosts); got != want {
			t.Errorf("OneOf(%s) = %t, want %t", at, got, want)
		}
	}
}
