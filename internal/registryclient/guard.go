package registryclient

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
)

// Guard connects to public addresses only, and to those that the operator allows, so that users of remotes cannot
// make this server reach the networks around it (compatibility.md#private-addresses). It looks up and checks the
// address of each connection, and connects to the address that it has checked: redirects, token services, proxies and
// changed DNS records all pass the same check.
type Guard struct {
	// Allow are addresses that are not public and that remotes may be on (mirror.allow_private_addresses).
	Allow []netip.Prefix
	// Lookup resolves host names; nil means the resolver of the system.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Refused returns the error for an address that is not allowed; nil means the error about remotes.
	Refused func(a netip.Addr, host string) error
}

// specialPurpose are the addresses that are not on the public internet (IANA's special-purpose address registries).
var specialPurpose = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
	"224.0.0.0/4", "240.0.0.0/4", "::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32",
	"3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, t := range texts {
		all[i] = netip.MustParsePrefix(t)
	}
	return all
}

// Addresses that contain an IPv4 address: NAT64 in the last four bytes, 6to4 in the third to sixth.
var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96")
	sixTo4 = netip.MustParsePrefix("2002::/16")
)

// allowed reports whether a remote may be at an address.
func (g Guard) allowed(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if contains(g.Allow, a) {
		return true
	}
	if a.Is6() {
		b := a.As16()
		switch {
		case nat64.Contains(a):
			return g.allowed(netip.AddrFrom4([4]byte(b[12:])))
		case sixTo4.Contains(a):
			return g.allowed(netip.AddrFrom4([4]byte(b[2:6])))
		}
	}
	return a.IsValid() && !contains(specialPurpose, a)
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// refused returns the error for an address that is not allowed.
func (g Guard) refused(a netip.Addr, host string) error {
	if g.Refused != nil {
		return g.Refused(a, host)
	}
	return fault.New(fault.Denied, "The address %s of %s is not allowed for a remote: it is private or loopback. "+
		"Companies' registries are often on such networks; an administrator allows them with "+
		"mirror.allow_private_addresses.", a, host)
}

// Bounds of a connection attempt.
const (
	maxAddresses = 16              // of one host that are tried
	minDialTime  = 2 * time.Second // for each of several addresses, as in the standard library
)

// Dialer returns a function for http.Transport.DialContext. The timeout bounds the lookup and all connection
// attempts; 0 means no bound.
func (g Guard) Dialer(timeout time.Duration) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		addresses, err := g.resolve(ctx, host)
		if err != nil {
			return nil, err
		}
		addresses = addresses[:min(len(addresses), maxAddresses)]
		var last error
		for i, a := range addresses {
			dialer := net.Dialer{}
			if end, ok := ctx.Deadline(); ok {
				dialer.Timeout = max(time.Until(end)/time.Duration(len(addresses)-i), minDialTime)
			}
			conn, err := dialer.DialContext(ctx, network, net.JoinHostPort(a.String(), port))
			if err == nil {
				return conn, nil
			}
			last = err
		}
		return nil, last
	}
}

// resolve returns the addresses of a host. It refuses the host if one of them is not allowed: the order of the
// addresses must not decide.
func (g Guard) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	addresses, err := g.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("lookup %s: no addresses", host)
	}
	for _, a := range addresses {
		if !g.allowed(a) {
			return nil, g.refused(a.Unmap(), host)
		}
	}
	return addresses, nil
}

func (g Guard) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, ok := parseAddress(host); ok {
		return []netip.Addr{a}, nil
	}
	if g.Lookup != nil {
		return g.Lookup(ctx, host)
	}
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// CheckProxied returns an error if a proxy would reach an address that is not allowed, as far as the host shows that
// without a lookup: the proxy makes the lookup.
func (g Guard) CheckProxied(host string) error {
	a, ok := parseAddress(host)
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") { // RFC 6761
		a, ok = netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	}
	if ok && !g.allowed(a) {
		return g.refused(a.Unmap(), host)
	}
	return nil
}

// parseAddress returns the address that a host is, also in the forms of inet_aton, which resolvers and proxies may
// accept: 2130706433, 0x7f.1, 0177.0.0.1.
func parseAddress(host string) (netip.Addr, bool) {
	host = strings.TrimSuffix(strings.Trim(host, "[]"), ".")
	if a, err := netip.ParseAddr(host); err == nil {
		return a, true
	}
	parts := strings.Split(host, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var all uint64
	for i, part := range parts {
		bits := 8
		if i == len(parts)-1 { // the last part is for all remaining bytes
			bits = 8 * (5 - len(parts))
		}
		v, ok := parseNumber(part)
		if !ok || v>>bits != 0 {
			return netip.Addr{}, false
		}
		all = all<<bits | v
	}
	return netip.AddrFrom4([4]byte{byte(all >> 24), byte(all >> 16), byte(all >> 8), byte(all)}), true
}

// parseNumber reads a number as C does: 0x begins a hexadecimal one, 0 an octal one.
func parseNumber(s string) (uint64, bool) {
	base := 10
	switch lower := strings.ToLower(s); {
	case strings.HasPrefix(lower, "0x"):
		s, base = s[2:], 16
	case len(s) > 1 && s[0] == '0':
		s, base = s[1:], 8
	}
	v, err := strconv.ParseUint(s, base, 32)
	return v, err == nil
}
