package config_test

import (
	"strings"
	"testing"

	"github.com/countersign/countersign/config"
)

func TestPlainHTTP(t *testing.T) {
	t.Parallel()
	tls := []string{"COUNTERSIGN_TLS_CERT_FILE=c", "COUNTERSIGN_TLS_KEY_FILE=k"}
	for name, tt := range map[string]struct {
		listen, public string
		tls            bool
		want           string // setting in the reason; empty: none
	}{
		"default":                  {listen: "127.0.0.1:24817"},
		"IPv6 loopback":            {listen: "[::1]:24817"},
		"mapped loopback":          {listen: "[::ffff:127.0.0.1]:24817"},
		"other loopback":           {listen: "127.5.0.1:24817"},
		"localhost":                {listen: "localhost:24817"},
		"all addresses":            {listen: ":24817", want: "listen"},
		"all IPv4 addresses":       {listen: "0.0.0.0:24817", want: "listen"},
		"all IPv6 addresses":       {listen: "[::]:24817", want: "listen"},
		"one address":              {listen: "192.0.2.7:24817", want: "listen"},
		"a host name":              {listen: "registry.internal:24817", want: "listen"},
		"TLS":                      {listen: ":24817", tls: true},
		"a proxy with TLS":         {listen: ":24817", public: "https://registry.example"},
		"TLS and a proxy":          {listen: ":24817", public: "https://registry.example", tls: true},
		"a proxy without TLS":      {listen: "127.0.0.1:24817", public: "http://registry.example", want: "public_url"},
		"public_url without https": {listen: ":24817", public: "http://registry.example", tls: true, want: "public_url"},
		"loopback public_url":      {listen: "127.0.0.1:24817", public: "http://127.0.0.1:24817"},
		"IPv6 public_url":          {listen: "127.0.0.1:24817", public: "http://[::1]:24817"},
	} {
		variables := []string{"COUNTERSIGN_LISTEN=" + tt.listen, "COUNTERSIGN_PUBLIC_URL=" + tt.public}
		if tt.tls {
			variables = append(variables, tls...)
		}
		loaded, err := config.Load("", variables)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := loaded.Config.PlainHTTP(); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: reason %q, want one with %q", name, got, tt.want)
		}
	}
}
