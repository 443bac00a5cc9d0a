package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// Prefixes returns AllowPrivateAddresses, parsed.
func (m Mirror) Prefixes() ([]netip.Prefix, error) {
	return prefixes("mirror.allow_private_addresses", m.AllowPrivateAddresses)
}

// Prefixes returns AllowPrivateAddresses, parsed.
func (w Webhooks) Prefixes() ([]netip.Prefix, error) {
	return prefixes("webhooks.allow_private_addresses", w.AllowPrivateAddresses)
}

// Proxies returns TrustedProxies, parsed.
func (c Config) Proxies() ([]netip.Prefix, error) {
	return prefixes("trusted_proxies", c.TrustedProxies)
}

// prefixes parses the addresses and networks of a setting. An address becomes a network of one address, and an
// IPv4-mapped IPv6 address becomes an IPv4 address.
func prefixes(key string, texts []string) ([]netip.Prefix, error) {
	all := make([]netip.Prefix, 0, len(texts))
	for _, text := range texts {
		text = strings.TrimSpace(text)
		p, err := netip.ParsePrefix(text)
		if a, addressErr := netip.ParseAddr(text); addressErr == nil {
			a = a.Unmap()
			p, err = a.Prefix(a.BitLen())
		}
		if err == nil && p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: want addresses or networks like 10.1.0.0/16, got %q", key, text)
		}
		all = append(all, p.Masked())
	}
	return all, nil
}
