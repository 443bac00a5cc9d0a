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
	return &Network{o}
}

// inside are the addresses that are not on the public internet (IANA's special-purpose registries).
var inside = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24",
	"192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
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

// dialer dials addresses that it has checked: what a name resolves to is looked at each time, and what was looked at is what is dialled.
func (n *Network) dialer(timeout time.Duration) func(ctx context.Context, network, address string) (net.Conn, error) {
	dial := net.Dialer{Timeout: timeout}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		addresses, err := n.resolve(ctx, host)
		if err != nil {
			return nil, err
		}
		var last error
		for _, a := range addresses {
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
	addresses := []netip.Addr{}
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		addresses = append(addresses, a)
	} else if addresses, err = n.Lookup(ctx, host); err != nil {
		return nil, err
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
