package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/distribution/reference"
)

// defaultPorts are the ports that clients use for a reference without a port.
var defaultPorts = map[string]string{"http": "80", "https": "443"}

// normalizePublicURL returns the normal form of a public URL: the host in lower case and without a trailing dot, IPv6
// addresses in their short form, no default port, and no path. The host of the result is the identity in signatures,
// so https://Registry.example:443/ and https://registry.example are one identity.
//
// It returns an error for a host that cannot be part of an image reference. Clients take a first component without a
// dot and without a port, except localhost, for a name on Docker Hub. Such a host must have a port and keeps it.
func normalizePublicURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || defaultPorts[u.Scheme] == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" ||
		u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("public_url: want http(s)://host[:port], got %q", text)
	}
	host, port := strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), u.Port()
	if address, err := netip.ParseAddr(host); err == nil && address.Zone() == "" && address.Is6() {
		host = "[" + address.String() + "]"
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("public_url: want a port from 1 to 65535, got %q", text)
		}
		port = strconv.FormatUint(n, 10)
	}
	if host, err = hostPort(u.Scheme, host, port); err != nil {
		return nil, fmt.Errorf("%w; got %q", err, text)
	}
	return &url.URL{Scheme: u.Scheme, Host: host}, nil
}

// hostPort joins a host and a port, which may be empty, to the form that clients use in references.
func hostPort(scheme, host, port string) (string, error) {
	bare := !strings.ContainsAny(host, ".:") && host != "localhost"
	switch {
	case bare && port == "":
		return "", fmt.Errorf("public_url: clients take %q in an image reference for a name on Docker Hub; add the port (%s://%s:%s), "+
			"or use a host name with a dot",
			host, scheme, host, defaultPorts[scheme])
	case port != "" && (bare || port != defaultPorts[scheme]):
		host += ":" + port
	}
	typed, err := reference.ParseNormalizedNamed(host + "/name")
	if err != nil || reference.Domain(typed) != host {
		return "", fmt.Errorf("public_url: the host %q cannot be used in an image reference (letters, digits, dots and hyphens; "+
			"internationalized names in their xn-- form)", host)
	}
	return host, nil
}

// Public returns PublicURL in its normal form. The Config must come from Load.
func (c Config) Public() *url.URL {
	u, err := normalizePublicURL(c.PublicURL)
	if err != nil { // not after Load
		return &url.URL{}
	}
	return u
}

// WrittenHost returns the host[:port] of PublicURL as the settings have it. It can differ from the host of Public.
func (c Config) WrittenHost() string {
	u, err := url.Parse(c.PublicURL)
	if err != nil { // not after Load
		return ""
	}
	return u.Host
}
