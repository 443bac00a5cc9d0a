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

// TestClientAddress checks the client address for headers that proxies and clients write.
func TestClientAddress(t *testing.T) {
	t.Parallel()
	trusted := []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("127.0.0.1/32"),
		netip.MustParsePrefix("fd00::/8"),
	}
	for name, tt := range map[string]struct {
		peer      string
		forwarded []string
		want      string
	}{
		"no header":                     {peer: "10.0.0.1:5000", want: "10.0.0.1:5000"},
		"an untrusted peer":             {peer: "192.0.2.1:5000", forwarded: []string{"198.51.100.7"}, want: "192.0.2.1:5000"},
		"a trusted peer":                {peer: "10.0.0.1:5000", forwarded: []string{"198.51.100.7"}, want: "198.51.100.7"},
		"a mapped trusted peer":         {peer: "[::ffff:10.0.0.1]:5000", forwarded: []string{"198.51.100.7"}, want: "198.51.100.7"},
		"a mapped client":               {peer: "10.0.0.1:5000", forwarded: []string{"::ffff:198.51.100.7"}, want: "198.51.100.7"},
		"a spoofed value to the left":   {peer: "10.0.0.1:5000", forwarded: []string{"203.0.113.9, 198.51.100.7"}, want: "198.51.100.7"},
		"a spoofed header of its own":   {peer: "10.0.0.1:5000", forwarded: []string{"203.0.113.9", "198.51.100.7"}, want: "198.51.100.7"},
		"two proxies":                   {peer: "10.0.0.1:5000", forwarded: []string{"203.0.113.9, 198.51.100.7, 10.0.0.2"}, want: "198.51.100.7"},
		"proxies alone":                 {peer: "10.0.0.1:5000", forwarded: []string{"10.0.0.3, 10.0.0.2"}, want: "10.0.0.3"},
		"IPv6":                          {peer: "[fd00::1]:5000", forwarded: []string{"2001:db8::7"}, want: "2001:db8::7"},
		"with ports":                    {peer: "10.0.0.1:5000", forwarded: []string{"[2001:db8::7]:443"}, want: "2001:db8::7"},
		"with a port, IPv4":             {peer: "10.0.0.1:5000", forwarded: []string{"198.51.100.7:443"}, want: "198.51.100.7"},
		"with a zone":                   {peer: "10.0.0.1:5000", forwarded: []string{"fe80::7%eth0"}, want: "fe80::7"},
		"rubbish":                       {peer: "10.0.0.1:5000", forwarded: []string{"unknown"}, want: "10.0.0.1:5000"},
		"nothing":                       {peer: "10.0.0.1:5000", forwarded: []string{""}, want: "10.0.0.1:5000"},
		"rubbish behind a proxy":        {peer: "10.0.0.1:5000", forwarded: []string{"198.51.100.7, unknown, 10.0.0.2"}, want: "10.0.0.2"},
		"rubbish that the client sends": {peer: "10.0.0.1:5000", forwarded: []string{"x, 198.51.100.7"}, want: "198.51.100.7"},
		"a peer without an address":     {peer: "@", forwarded: []string{"198.51.100.7"}, want: "@"},
	} {
		var got string
		h := clientaddr.New(trusted, slog.New(slog.DiscardHandler)).
			Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.RemoteAddr }))
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

// TestUntrustedPeersAreWarnedAbout checks that an untrusted peer that sends X-Forwarded-For is logged once, and that many
// such peers cannot flood the log.
func TestUntrustedPeersAreWarnedAbout(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	server := httptest.NewServer(
		clientaddr.New(nil, slog.New(slog.NewTextHandler(&log, nil))).Handler(http.NotFoundHandler()),
	)
	defer server.Close()
	ask := func(from string) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		client := http.Client{
			Transport: &http.Transport{
				DisableKeepAlives: true,
				DialContext: func(ctx context.Context, network, at string) (net.Conn, error) {
					return d.DialContext(ctx, network, at)
				},
			},
		}
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
	if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") ||
		!strings.Contains(got, "trusted_proxies") ||
		!strings.HasSuffix(got, "peer=127.0.0.2\n") {
		t.Errorf("the log: %s", got)
	}
	for i := range 30 {
		ask(netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}).String())
	}
	if got := strings.Count(log.String(), "\n"); got > 12 {
		t.Errorf("%d warnings about 31 peers within seconds", got)
	}
}
