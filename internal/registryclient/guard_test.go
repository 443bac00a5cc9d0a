package registryclient

import (
	"net/netip"
	"slices"
	"testing"
)

// TestParseAddress proves that all forms of inet_aton are read as addresses, and that other hosts are not.
func TestParseAddress(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"127.0.0.1":        "127.0.0.1",
		"127.0.0.1.":       "127.0.0.1",
		"2130706433":       "127.0.0.1",
		"0x7f000001":       "127.0.0.1",
		"0X7F.1":           "127.0.0.1",
		"0177.0.0.1":       "127.0.0.1",
		"127.1":            "127.0.0.1",
		"10.258":           "10.0.1.2",
		"169.0xfe.43518":   "169.254.169.254",
		"0":                "0.0.0.0",
		"[::1]":            "::1",
		"::ffff:10.0.0.1":  "::ffff:10.0.0.1",
		"":                 "",
		"registry.example": "",
		"256.0.0.1":        "",
		"1.2.3.4.5":        "",
		"4294967296":       "",
		"0x":               "",
		"08.1.1.1":         "",
		"1..2":             "",
		"a1":               "",
		"1_0.0.0.1":        "",
		"+1.0.0.1":         "",
	} {
		a, ok := parseAddress(host)
		if ok != (want != "") || ok && a != netip.MustParseAddr(want) {
			t.Errorf("parseAddress(%q) = %v, %t, want %q", host, a, ok, want)
		}
	}
}

// TestCheckProxied proves that a private address behind a proxy is refused in every form.
func TestCheckProxied(t *testing.T) {
	t.Parallel()
	allowed := []string{
		"registry.example", "8.8.8.8", "134744072", "localhost.example", "notlocalhost",
	}
	refused := []string{
		"127.0.0.1", "2130706433", "0x7f.1", "017700000001", "127.0.0.1.", "localhost", "LocalHost.", "a.localhost",
		"::1", "::ffff:7f00:1",
	}
	for _, host := range slices.Concat(allowed, refused) {
		want := slices.Contains(allowed, host)
		if err := (Guard{}).CheckProxied(host); (err == nil) != want {
			t.Errorf("CheckProxied(%s) = %v, want an error = %t", host, err, !want)
		}
	}
}

// TestGuardAllows proves which addresses are public or allowed, in every form that contains an IPv4 address.
func TestGuardAllows(t *testing.T) {
	t.Parallel()
	g := Guard{Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}}
	allowed := []string{
		"93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::808:808", "2002:808:808::1",
		"100.128.0.1", "172.32.0.1", "10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "2002:a01:203::", "fd12::1",
	}
	refused := []string{
		"10.2.0.1", "::ffff:10.2.0.1", "64:ff9b::10.2.0.1", "2002:a02:1::", "fc00::1", "127.0.0.1", "0.1.2.3",
		"100.64.0.1", "100.127.255.255", "169.254.169.254", "172.31.255.255", "192.0.0.1", "192.0.2.1",
		"192.168.1.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1",
		"255.255.255.255", "::", "::1", "::10.2.0.1", "::ffff:0:10.2.0.1", "64:ff9b:1::1", "2001::1", "2001:db8::1",
		"fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
	}
	for _, a := range slices.Concat(allowed, refused) {
		want := slices.Contains(allowed, a)
		if got := g.allowed(netip.MustParseAddr(a)); got != want {
			t.Errorf("allowed(%s) = %t, want %t", a, got, want)
		}
	}
	if g.allowed(netip.Addr{}) {
		t.Error("the zero address is allowed")
	}
}
