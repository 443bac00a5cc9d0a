package registryclient

import (
	"net/netip"
	"testing"
)

func TestParseAddress(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"127.0.0.1": "127.0.0.1", "127.0.0.1.": "127.0.0.1", "2130706433": "127.0.0.1", "0x7f000001": "127.0.0.1", "0X7F.1": "127.0.0.1", "0177.0.0.1": "127.0.0.1", "127.1": "127.0.0.1",
		"10.258": "10.0.1.2", "169.0xfe.43518": "169.254.169.254", "0": "0.0.0.0", "[::1]": "::1", "::ffff:10.0.0.1": "::ffff:10.0.0.1",
		"": "", "registry.example": "", "256.0.0.1": "", "1.2.3.4.5": "", "4294967296": "", "0x": "", "08.1.1.1": "", "1..2": "", "a1": "", "1_0.0.0.1": "", "+1.0.0.1": "",
	} {
		a, ok := parseAddress(host)
		if ok != (want != "") || ok && a != netip.MustParseAddr(want) {
			t.Errorf("%q = %v, %t, want %q", host, a, ok, want)
		}
	}
}

func TestCheckProxied(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"registry.example": true, "8.8.8.8": true, "134744072": true, "localhost.example": true, "notlocalhost": true,
		"127.0.0.1": false, "2130706433": false, "0x7f.1": false, "017700000001": false, "127.0.0.1.": false, "localhost": false, "LocalHost.": false, "a.localhost": false, "::1": false, "::ffff:7f00:1": false,
	} {
		if err := (Guard{}).CheckProxied(host); (err == nil) != want {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestGuardAllows(t *testing.T) {
	t.Parallel()
	g := Guard{Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}}
	for a, want := range map[string]bool{
		"93.184.216.34": true, "8.8.8.8": true, "2606:2800:220:1:248:1893:25c8:1946": true, "64:ff9b::808:808": true, "2002:808:808::1": true, "100.128.0.1": true, "172.32.0.1": true,
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "64:ff9b::10.1.2.3": true, "2002:a01:203::": true, "fd12::1": true,
		"10.2.0.1": false, "::ffff:10.2.0.1": false, "64:ff9b::10.2.0.1": false, "2002:a02:1::": false, "fc00::1": false, "127.0.0.1": false, "0.1.2.3": false, "100.64.0.1": false,
		"100.127.255.255": false, "169.254.169.254": false, "172.31.255.255": false, "192.0.0.1": false, "192.0.2.1": false, "192.168.1.1": false, "198.19.255.255": false,
		"198.51.100.1": false, "203.0.113.1": false, "224.0.0.1": false, "239.255.255.255": false, "240.0.0.1": false, "255.255.255.255": false, "::": false, "::1": false,
		"::10.2.0.1": false, "::ffff:0:10.2.0.1": false, "64:ff9b:1::1": false, "2001::1": false, "2001:db8::1": false, "fe80::1": false, "fe80::1%eth0": false, "fec0::1": false, "ff02::1": false,
	} {
		if got := g.allowed(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s is allowed = %t, want %t", a, got, want)
		}
	}
	if g.allowed(netip.Addr{}) {
		t.Error("no address is allowed")
	}
}
