package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/registryclient"
)

func TestLiteral(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"127.0.0.1": "127.0.0.1", "127.0.0.1.": "127.0.0.1", "2130706433": "127.0.0.1", "0x7f000001": "127.0.0.1", "0X7F.1": "127.0.0.1", "0177.0.0.1": "127.0.0.1", "127.1": "127.0.0.1",
		"10.258": "10.0.1.2", "169.0xfe.43518": "169.254.169.254", "0": "0.0.0.0", "[::1]": "::1", "::ffff:10.0.0.1": "::ffff:10.0.0.1",
		"": "", "registry.example": "", "256.0.0.1": "", "1.2.3.4.5": "", "4294967296": "", "0x": "", "08.1.1.1": "", "1..2": "", "a1": "", "1_0.0.0.1": "", "+1.0.0.1": "",
	} {
		a, ok := literal(host)
		if ok != (want != "") || ok && a != netip.MustParseAddr(want) {
			t.Errorf("%q = %v, %t, want %q", host, a, ok, want)
		}
	}
}

func TestHostsBehindProxies(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"registry.example": true, "8.8.8.8": true, "134744072": true, "localhost.example": true, "notlocalhost": true,
		"127.0.0.1": false, "2130706433": false, "0x7f.1": false, "017700000001": false, "127.0.0.1.": false, "localhost": false, "LocalHost.": false, "a.localhost": false, "::1": false, "::ffff:7f00:1": false,
	} {
		if err := New(Options{}).checkProxied(host); (err == nil) != want {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestAllowed(t *testing.T) {
	t.Parallel()
	n := New(Options{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}})
	for a, want := range map[string]bool{
		"93.184.216.34": true, "8.8.8.8": true, "2606:2800:220:1:248:1893:25c8:1946": true, "64:ff9b::808:808": true, "2002:808:808::1": true, "100.128.0.1": true, "172.32.0.1": true,
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "64:ff9b::10.1.2.3": true, "2002:a01:203::": true, "fd12::1": true,
		"10.2.0.1": false, "::ffff:10.2.0.1": false, "64:ff9b::10.2.0.1": false, "2002:a02:1::": false, "fc00::1": false, "127.0.0.1": false, "0.1.2.3": false, "100.64.0.1": false,
		"100.127.255.255": false, "169.254.169.254": false, "172.31.255.255": false, "192.0.0.1": false, "192.0.2.1": false, "192.168.1.1": false, "198.19.255.255": false,
		"198.51.100.1": false, "203.0.113.1": false, "224.0.0.1": false, "239.255.255.255": false, "240.0.0.1": false, "255.255.255.255": false, "::": false, "::1": false,
		"::10.2.0.1": false, "::ffff:0:10.2.0.1": false, "64:ff9b:1::1": false, "2001::1": false, "2001:db8::1": false, "fe80::1": false, "fe80::1%eth0": false, "fec0::1": false, "ff02::1": false,
	} {
		if got := n.allowed(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s is allowed = %t, want %t", a, got, want)
		}
	}
	if n.allowed(netip.Addr{}) {
		t.Error("no address is allowed")
	}
}

func TestWhatErrorsSay(t *testing.T) {
	t.Parallel()
	location := `failed to parse Location header "https://robot:hunter2@cdn.example/x?X-Amz-Signature=hunter2": bad`
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"a URL":      {&url.Error{Op: "Get", URL: "https://cdn.example/x?sig=hunter2", Err: errors.New("EOF")}, "EOF"},
		"a location": {&url.Error{Op: "Get", URL: "https://h/", Err: errors.New(location)}, `failed to parse Location header "https:cdn.example/x": bad`},
		"addresses of ours": {
			&net.OpError{Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(172, 17, 0, 2), Port: 5}, Addr: &net.TCPAddr{IP: net.IPv4(8, 8, 8, 8), Port: 443}, Err: errors.New("reset")},
			"read 8.8.8.8:443: reset",
		},
		"our resolver": {&net.DNSError{Name: "registry.example", Server: "10.0.0.2:53", Err: "no such host"}, "lookup registry.example: no such host"},
		"control":      {errors.New("a\nb\xff"), "a b\ufffd"},
		"long":         {errors.New(strings.Repeat("x", 1000)), strings.Repeat("x", 200)},
		"none":         {nil, ""},
	} {
		if got := plainText(c.err); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if cause := (&plainError{fmt.Errorf("at https://h/?hunter2: %w", context.DeadlineExceeded)}); !errors.Is(cause, context.DeadlineExceeded) || strings.Contains(cause.Error(), "hunter2") {
		t.Errorf("the cause: %v", cause)
	}
}

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
		if got := sameDomain(realm, base); got != c.want {
			t.Errorf("%s is of the domain of %s = %t, want %t", c.realm, c.base, got, c.want)
		}
	}
}

func TestURLsAreMadeAlike(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]string{
		"https://Registry.Example:443/": "https://registry.example", "http://h:80/prefix//": "http://h/prefix", "https://h:80": "https://h:80", "http://[::1]:80": "http://[::1]",
		"http://h?x=y#z": "http://h", "http://u@h": "", "ftp://h": "", "//h": "", "http://": "", "http://:80": "", "h": "", "http://h h": "", "": "",
	} {
		u, err := parseURL(from)
		if (err == nil) != (want != "") || err == nil && u.String() != want {
			t.Errorf("%q = %v, %v, want %q", from, u, err, want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"7": 7 * time.Second, "0": 0, now.Add(time.Minute).Format(http.TimeFormat): time.Minute, now.Add(-time.Hour).Format(http.TimeFormat): 0,
		"": -1, "-1": -1, "soon": -1, "1e9": -1, "99999999999999": -1,
	} {
		if got, ok := retryAfter(text, now); ok != (want >= 0) || ok && got != want {
			t.Errorf("%q = %v, %t", text, got, ok)
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
		a := registryclient.New(base, client, "robot", "hunter2", func(realm *url.URL) bool { return sameDomain(realm, base) })
		if err := a.Learn(&http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": {challenge}}}, nil); err != nil {
			return
		}
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, at.String(), nil)
		_ = a.Authorize(t.Context(), r, []string{"repository:a:pull"})
	})
}
