package registryclient

import (
	"net/url"
	"testing"
)

func TestSameDomain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		base, realm string
		want        bool
	}{
		{"https://registry-1.docker.io", "https://auth.docker.io/token", true},
		{"https://registry.example.com", "https://auth.example.com:8443/token", true},
		{"https://registry.example.com", "http://auth.example.com/token", false},
		{"http://registry.example.com", "https://auth.example.com/token", false},
		{"https://example.co.uk", "https://anybody.co.uk/token", false},
		{"https://mine.github.io", "https://theirs.github.io/token", false},
		{"https://registry.example.com", "https://example.com.evil.test/token", false},
		{"https://10.1.2.3", "https://10.9.2.3/token", false},
		{"https://1.0x7f", "https://2.0x7f/token", false},
		{"https://[fd00::1]", "https://[fd00::1]:9/token", false},
		{"https://localhost", "https://localhost:9/token", false},
	} {
		base, _ := url.Parse(c.base)
		realm, _ := url.Parse(c.realm)
		if got := SameDomain(realm, base); got != c.want {
			t.Errorf("%s is of the domain of %s = %t, want %t", c.realm, c.base, got, c.want)
		}
	}
}

func TestParseURL(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]string{
		"https://Registry.Example:443/": "https://registry.example", "http://h:80/prefix//": "http://h/prefix", "https://h:80": "https://h:80", "http://[::1]:80": "http://[::1]",
		"http://h?x=y#z": "http://h", "http://u@h": "", "ftp://h": "", "//h": "", "http://": "", "http://:80": "", "h": "", "http://h h": "", "": "",
	} {
		u, ok := ParseURL(from)
		if ok != (want != "") || ok && u.String() != want {
			t.Errorf("%q = %v, %t, want %q", from, u, ok, want)
		}
	}
}

func TestHostIn(t *testing.T) {
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
		if got := HostIn(u, hosts); got != want {
			t.Errorf("HostIn(%s) = %t, want %t", at, got, want)
		}
	}
}
