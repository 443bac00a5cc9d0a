package bearer

import (
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
	}
	for _, c := range cases {
		base, _ := url.Parse(c.base)
		realm, _ := url.Parse(c.realm)
		if got := New(base, nil, "robot", "secret", nil).mayKnow(realm); got != c.want {
			t.Errorf("%s may know the password of %s = %t, want %t", c.realm, c.base, got, c.want)
		}
	}
}
