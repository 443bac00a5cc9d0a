package registryclient

import (
	"net/url"
	"testing"
)

// TestSameDomain proves that hosts share a domain only over https and below a public suffix.
func TestSameDomain(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		base, realm string
		want        bool
	}{
		{base: "https://registry-1.docker.io", realm: "https://auth.docker.io/token", want: true},
		{base: "https://registry.example.com", realm: "https://auth.example.com:8443/token", want: true},
		{base: "https://registry.example.com", realm: "http://auth.example.com/token"},
		{base: "http://registry.example.com", realm: "https://auth.example.com/token"},
		{base: "https://example.co.uk", realm: "https://anybody.co.uk/token"},
		{base: "https://mine.github.io", realm: "https://theirs.github.io/token"},
		{base: "https://registry.example.com", realm: "https://example.com.evil.test/token"},
		{base: "https://10.1.2.3", realm: "https://10.9.2.3/token"},
		{base: "https://1.0x7f", realm: "https://2.0x7f/token"},
		{base: "https://[fd00::1]", realm: "https://[fd00::1]:9/token"},
		{base: "https://localhost", realm: "https://localhost:9/token"},
	} {
		base, _ := url.Parse(tt.base)
		realm, _ := url.Parse(tt.realm)
		if got := SameDomain(realm, base); got != tt.want {
			t.Errorf("SameDomain(%s, %s) = %t, want %t", tt.realm, tt.base, got, tt.want)
		}
	}
}

// TestParseURL proves that URLs of the same registry become equal, and that other texts are not accepted.
func TestParseURL(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]string{
		"https://Registry.Example:443/": "https://registry.example",
		"http://h:80/prefix//":          "http://h/prefix",
		"https://h:80":                  "https://h:80",
		"http://[::1]:80":               "http://[::1]",
		"http://h?x=y#z":                "http://h",
		"http://u@h":                    "", // not accepted
		"ftp://h":                       "",
		"//h":                           "",
		"http://":                       "",
		"http://:80":                    "",
		"h":                             "",
		"http://h h":                    "",
		"":                              "",
	} {
		u, ok := ParseURL(from)
		if ok != (want != "") || ok && u.String() != want {
			t.Errorf("ParseURL(%q) = %v, %t, want %q", from, u, ok, want)
		}
	}
}

// TestHostIn proves that ports are compared, with the default port of the scheme.
func TestHostIn(t *testing.T) {
	t.Parallel()
	hosts := []string{"", "auth.example.com", "Other.example.com:8443", "plain.example.com:443", "[2001:db8::1]:5001"}
	for at, want := range map[string]bool{
		"https://auth.example.com/token":        true,
		"https://AUTH.example.com:443/token":    true,
		"http://auth.example.com/token":         true, // the caller checks the scheme
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
		if got := HostIn(u, hosts); got != want {
			t.Errorf("HostIn(%s) = %t, want %t", at, got, want)
		}
	}
}
