package pulp_test

import (
	"testing"

	"github.com/countersign/countersign/internal/pulp"
)

// TestKeepsPassword checks which edits of a remote would send its credentials to another server.
func TestKeepsPassword(t *testing.T) {
	t.Parallel()
	remote := func(url string, edit func(*pulp.Connection)) pulp.Remote {
		r := pulp.Remote{URL: url, Connection: pulp.Connection{TLSValidation: true}}
		if edit != nil {
			edit(&r.Connection)
		}
		return r
	}
	proxy := func(url string) func(*pulp.Connection) {
		return func(c *pulp.Connection) { c.ProxyURL = &url }
	}
	authority := func(pem string) func(*pulp.Connection) {
		return func(c *pulp.Connection) { c.CACert = &pem }
	}
	const host = "https://registry.example"
	for name, tt := range map[string]struct {
		old, edited            pulp.Remote
		password, proxySecrets bool
	}{
		"another path":             {remote(host, nil), remote(host+"/prefix", nil), true, true},
		"the default port":         {remote(host, nil), remote("https://REGISTRY.example:443/", nil), true, true},
		"another port":             {remote(host, nil), remote(host+":444", nil), false, true},
		"another scheme":           {remote(host, nil), remote("http://registry.example", nil), false, true},
		"another host":             {remote(host, nil), remote("https://evil.example", nil), false, true},
		"a host that begins alike": {remote(host, nil), remote("https://registry.example.evil", nil), false, true},
		"no proxy any more":        {remote(host, proxy("http://proxy:1")), remote(host, nil), true, true},
		"another path of a proxy":  {remote(host, proxy("http://proxy:1")), remote(host, proxy("http://proxy:1/x")), true, true},
		"a new proxy":              {remote(host, nil), remote(host, proxy("http://proxy:1")), false, false},
		"another proxy":            {remote(host, proxy("http://proxy:1")), remote(host, proxy("http://proxy:2")), false, false},
		"no validation": {
			remote(host, nil), remote(host, func(c *pulp.Connection) { c.TLSValidation = false }), false, true,
		},
		"validation": {
			remote(host, func(c *pulp.Connection) { c.TLSValidation = false }), remote(host, nil), true, true,
		},
		"a new authority":      {remote(host, nil), remote(host, authority("a")), false, true},
		"another authority":    {remote(host, authority("a")), remote(host, authority("b")), false, true},
		"the same authority":   {remote(host, authority("a")), remote(host, authority("a")), true, true},
		"the system's instead": {remote(host, authority("a")), remote(host, nil), true, true},
	} {
		if got := tt.edited.KeepsPassword(tt.old); got != tt.password {
			t.Errorf("%s: KeepsPassword = %t, want %t", name, got, tt.password)
		}
		if got := tt.edited.KeepsProxyPassword(tt.old); got != tt.proxySecrets {
			t.Errorf("%s: KeepsProxyPassword = %t, want %t", name, got, tt.proxySecrets)
		}
	}
}
