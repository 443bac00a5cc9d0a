// Package mirror reads a remote registry and its signatures, and owns the dialer that refuses addresses inside (D20).
//
// It trusts a remote with nothing: whatever it sends is bounded in size, count and time and held against its digest, and credentials go to the remote's own host
// and to token services of its domain, nowhere else. It stores nothing.
package mirror

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
)

// Options are what all remotes share.
type Options struct {
	// AllowPrivate are addresses inside that remotes may be on (mirror.allow_private_addresses, D20).
	AllowPrivate []netip.Prefix
	// UserAgent is how requests name this program.
	UserAgent string
	Log       *slog.Logger
	// Pace is the least speed at which an answer must arrive; zero is DefaultPace.
	Pace Pace
	// BlobTimeout bounds the download of one blob, over all its connections, where it is above zero.
	BlobTimeout time.Duration
	// Lookup resolves host names; nil: the system does.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Network reaches remotes. It is safe for concurrent use.
type Network struct{ Options }

// New returns a network.
func New(o Options) *Network {
	if o.Lookup == nil {
		o.Lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	if o.UserAgent == "" {
		o.UserAgent = "countersign"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Network{o}
}

// inside are the addresses that are not on the public internet (IANA's special-purpose registries).
var inside = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24",
	"192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, t := range texts {
		all[i] = netip.MustParsePrefix(t)
	}
	return all
}

// Addresses that carry an IPv4 address: NAT64 in the last four bytes, 6to4 in the third to sixth.
var (
	nat64   = netip.MustParsePrefix("64:ff9b::/96")
	sixTo4  = netip.MustParsePrefix("2002::/16")
	sixByte = 2
)

// allowed says whether a remote may be at an address.
func (n *Network) allowed(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if contains(n.AllowPrivate, a) {
		return true
	}
	if a.Is6() {
		b := a.As16()
		switch {
		case nat64.Contains(a):
			return n.allowed(netip.AddrFrom4([4]byte(b[12:])))
		case sixTo4.Contains(a):
			return n.allowed(netip.AddrFrom4([4]byte(b[sixByte : sixByte+4])))
		}
	}
	return a.IsValid() && !contains(inside, a)
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func refusedAddress(a netip.Addr, host string) error {
	return fault.New(fault.Denied, "The address %s of %s is not allowed for a remote: it is private or loopback. Companies' registries are often on such networks; "+
		"an administrator allows them with mirror.allow_private_addresses.", a, host)
}

// Bounds of a dial.
const (
	maxAddresses = 16              // of one host that are tried
	leastDial    = 2 * time.Second // for each of several addresses, as the standard library gives them
)

// dialer dials addresses that it has checked: what a name resolves to is looked at each time, and what was looked at is what is dialled. The timeout is for all of it; 0 is none.
func (n *Network) dialer(timeout time.Duration) func(ctx context.Context, network, address string) (net.Conn, error) {
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
		addresses, err := n.resolve(ctx, host)
		if err != nil {
			return nil, err
		}
		addresses = addresses[:min(len(addresses), maxAddresses)]
		var last error
		for i, a := range addresses {
			dial := net.Dialer{}
			if end, ok := ctx.Deadline(); ok {
				dial.Timeout = max(time.Until(end)/time.Duration(len(addresses)-i), leastDial)
			}
			conn, err := dial.DialContext(ctx, network, net.JoinHostPort(a.String(), port))
			if err == nil {
				return conn, nil
			}
			last = err
		}
		return nil, last
	}
}

// resolve returns the addresses of a host. A host of which one is not allowed is refused whole: which one would be dialled is not for it to choose.
func (n *Network) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	var addresses []netip.Addr
	if a, ok := literal(host); ok {
		addresses = []netip.Addr{a}
	} else {
		var err error
		if addresses, err = n.Lookup(ctx, host); err != nil {
			return nil, err
		}
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("lookup %s: no addresses", host)
	}
	for _, a := range addresses {
		if !n.allowed(a) {
			return nil, refusedAddress(a.Unmap(), host)
		}
	}
	return addresses, nil
}

// checkProxied refuses a host that a proxy would reach inside, as far as that shows without looking it up: the proxy does that.
func (n *Network) checkProxied(host string) error {
	a, ok := literal(host)
	if name := strings.ToLower(strings.TrimSuffix(host, ".")); name == "localhost" || strings.HasSuffix(name, ".localhost") { // RFC 6761
		a, ok = netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
	}
	if ok && !n.allowed(a) {
		return refusedAddress(a.Unmap(), host)
	}
	return nil
}

// literal returns the address that a host is, also in the forms of inet_aton, which resolvers and proxies may know: 2130706433, 0x7f.1, 0177.0.0.1.
func literal(host string) (netip.Addr, bool) {
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
		if i == len(parts)-1 { // the last one is for all bytes that are left
			bits = 8 * (5 - len(parts))
		}
		v, ok := number(part)
		if !ok || v>>bits != 0 {
			return netip.Addr{}, false
		}
		all = all<<bits | v
	}
	return netip.AddrFrom4([4]byte{byte(all >> 24), byte(all >> 16), byte(all >> 8), byte(all)}), true
}

// number reads a number as C does: 0x is hexadecimal, 0 octal.
func number(s string) (uint64, bool) {
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
