package clientaddr_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/clientaddr"
)

// TestClientAddress proves which address counts as the client's, whatever a client writes into X-Forwarded-For itself.
func TestClientAddress(t *testing.T) {
	t.Parallel()
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("fd00::/8")}
	for name, tt := range map[string]struct {
		peer      string
		forwarded []string
		want      string
	}{
		"no header":                     {"10.0.0.1:5000", nil, "10.0.0.1:5000"},
		"an untrusted peer":             {"192.0.2.1:5000", []string{"198.51.100.7"}, "192.0.2.1:5000"},
		"a trusted peer":                {"10.0.0.1:5000", []string{"198.51.100.7"}, "198.51.100.7"},
		"a mapped trusted peer":         {"[::ffff:10.0.0.1]:5000", []string{"198.51.100.7"}, "198.51.100.7"},
		"a mapped client":               {"10.0.0.1:5000", []string{"::ffff:198.51.100.7"}, "198.51.100.7"},
		"a spoofed value to the left":   {"10.0.0.1:5000", []string{"203.0.113.9, 198.51.100.7"}, "198.51.100.7"},
		"a spoofed header of its own":   {"10.0.0.1:5000", []string{"203.0.113.9", "198.51.100.7"}, "198.51.100.7"},
		"two proxies":                   {"10.0.0.1:5000", []string{"203.0.113.9, 198.51.100.7, 10.0.0.2"}, "198.51.100.7"},
		"proxies alone":                 {"10.0.0.1:5000", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		"IPv6":                          {"[fd00::1]:5000", []string{"2001:db8::7"}, "2001:db8::7"},
		"with ports":                    {"10.0.0.1:5000", []string{"[2001:db8::7]:443"}, "2001:db8::7"},
		"with a port, IPv4":             {"10.0.0.1:5000", []string{"198.51.100.7:443"}, "198.51.100.7"},
		"with a zone":                   {"10.0.0.1:5000", []string{"fe80::7%eth0"}, "fe80::7"},
		"rubbish":                       {"10.0.0.1:5000", []string{"unknown"}, "10.0.0.1:5000"},
		"nothing":                       {"10.0.0.1:5000", []string{""}, "10.0.0.1:5000"},
		"rubbish behind a proxy":        {"10.0.0.1:5000", []string{"198.51.100.7, unknown, 10.0.0.2"}, "10.0.0.2"},
		"rubbish that the client sends": {"10.0.0.1:5000", []string{"x, 198.51.100.7"}, "198.51.100.7"},
		"a peer without an address":     {"@", []string{"198.51.100.7"}, "@"},
	} {
		var got string
		h := clientaddr.New(trusted, slog.New(slog.DiscardHandler)).Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.RemoteAddr }))
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.RemoteAddr = tt.peer
		for _, v := range tt.forwarded {
			r.Header.Add("X-Forwarded-For", v)
		}
		h.ServeHTTP(httptest.NewRecorder(), r)
		if got != tt.want || r.RemoteAddr != tt.peer {
			t.Errorf("%s: client %s, want %s; the server's request has %s", name, got, tt.want, r.RemoteAddr)
		}
	}
}

// TestUntrustedPeersAreWarnedAbout proves that the log names a peer that sends X-Forwarded-For without being trusted, once, and that many peers cannot
// fill the log.
func TestUntrustedPeersAreWarnedAbout(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	server := httptest.NewServer(clientaddr.New(nil, slog.New(slog.NewTextHandler(&log, nil))).Handler(http.NotFoundHandler()))
	defer server.Close()
	ask := func(from string) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, at string) (net.Conn, error) {
			return d.DialContext(ctx, network, at)
		}}}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Forwarded-For", "198.51.100.7")
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
	for range 3 {
		ask("127.0.0.2")
	}
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") || !strings.Contains(got, "trusted_proxies") || !strings.HasSuffix(got, "peer=127.0.0.2\n") {
		t.Errorf("the log: %s", got)
	}
	for i := range 30 {
		ask(netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}).String())
	}
	if got := strings.Count(log.String(), "\n"); got > 12 {
		t.Errorf("%d warnings about 31 peers within seconds", got)
	}
}
