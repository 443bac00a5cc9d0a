package config_test

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/config"
)

// TestPublicURLNormalForm verifies that all spellings of one address have one normal form.
func TestPublicURLNormalForm(t *testing.T) {
	t.Parallel()
	for written, want := range map[string]string{
		"https://registry.example":            "https://registry.example",
		"https://registry.example/":           "https://registry.example",
		"https://registry.example:443":        "https://registry.example",
		"HTTPS://Registry.EXAMPLE:443/":       "https://registry.example",
		"https://registry.example.":           "https://registry.example",
		"https://registry.example.:0443":      "https://registry.example",
		"https://registry.example:":           "https://registry.example",
		"https://registry.example:80":         "https://registry.example:80",
		"http://registry.example:80":          "http://registry.example",
		"http://registry.example:443":         "http://registry.example:443",
		"https://registry.example:8443":       "https://registry.example:8443",
		"http://localhost:80":                 "http://localhost",
		"http://localhost:24817":              "http://localhost:24817",
		"http://registry:80":                  "http://registry:80",
		"https://Registry:443":                "https://registry:443",
		"http://127.0.0.1:5000":               "http://127.0.0.1:5000",
		"http://[::1]:5000":                   "http://[::1]:5000",
		"http://[0:0:0:0:0:0:0:1]":            "http://[::1]",
		"https://xn--rgistre-byae.example":    "https://xn--rgistre-byae.example",
		"https://registry-1.sub.example:5000": "https://registry-1.sub.example:5000",
	} {
		if got := load(t, "", "COUNTERSIGN_PUBLIC_URL="+written).Public().String(); got != want {
			t.Errorf("Public() of %s = %s, want %s", written, got, want)
		}
	}
}

// TestPublicURLRejectsHost verifies that a host which cannot be part of an image reference is a configuration error.
func TestPublicURLRejectsHost(t *testing.T) {
	t.Parallel()
	for written, says := range map[string]string{
		"https://registry":               "add the port (https://registry:443)",
		"http://registry":                "add the port (http://registry:80)",
		"https://registry.":              "add the port",
		"https://my_registry.example":    "cannot be used",
		"https://régistre.example":       "cannot be used",
		"https://registry..example":      "cannot be used",
		"https://-registry.example":      "cannot be used",
		"https://registry.example..":     "cannot be used",
		"https://index.docker.io":        "cannot be used",
		"http://[fe80::1%25eth0]:5000":   "cannot be used",
		"https://registry.example:0":     "want a port from 1 to 65535",
		"https://registry.example:65536": "want a port from 1 to 65535",
		"https://registry.example/v2":    "want http(s)://host[:port]",
		"https://registry.example?x":     "want http(s)://host[:port]",
		"https://registry.example#x":     "want http(s)://host[:port]",
		"https://user@registry.example":  "want http(s)://host[:port]",
		"ftp://registry.example":         "want http(s)://host[:port]",
		"registry.example:5000":          "want http(s)://host[:port]",
		"https://registry.example :5000": "want http(s)://host[:port]",
	} {
		_, err := config.Load("", []string{"COUNTERSIGN_PUBLIC_URL=" + written})
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), written) {
			t.Errorf("Load with public_url %s: %v, want an error with %q and the URL", written, err, says)
		}
	}
}

// FuzzPublicURL verifies that the normal form of a normal form is itself.
func FuzzPublicURL(f *testing.F) {
	for _, seed := range []string{"https://registry.example:443", "http://[::1]:80/", "https://Registry:443", "http://a.b.:1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, written string) {
		first, err := config.Load("", []string{"COUNTERSIGN_PUBLIC_URL=" + written})
		if err != nil || written == "" {
			return
		}
		once := first.Config.Public().String()
		second, err := config.Load("", []string{"COUNTERSIGN_PUBLIC_URL=" + once})
		if err != nil || second.Config.Public().String() != once {
			t.Errorf("%q becomes %q and then %q, %v", written, once, second.Config.Public(), err)
		}
	})
}
