package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/distribution/reference"
)

// defaultPorts are the ports that clients use where a reference names none.
var defaultPorts = map[string]string{"http": "80", "https": "443"}

// normalizePublicURL returns a public URL in its one normal form: host in lower case, without a trailing dot, IPv6 addresses shortened, and without the scheme's default
// port. The host of the result is the identity in signatures, so that https://Registry.example:443/ and https://registry.example are one identity.
//
// A host that no client can type in an image reference is an error. Clients take a first component without a dot and without a port for a name on Docker Hub, except
// localhost; such a host keeps its port, and must have one.
func normalizePublicURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || defaultPorts[u.Scheme] == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
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

// hostPort joins a host and a port, empty for none, as clients type them.
func hostPort(scheme, host, port string) (string, error) {
	bare := !strings.ContainsAny(host, ".:") && host != "localhost"
	switch {
	case bare && port == "":
		return "", fmt.Errorf("public_url: clients take %q in an image reference for a name on Docker Hub; add the port (%s://%s:%s), or use a host name with a dot",
			host, scheme, host, defaultPorts[scheme])
	case port != "" && (bare || port != defaultPorts[scheme]):
		host += ":" + port
	}
	typed, err := reference.ParseNormalizedNamed(host + "/name")
	if err != nil || reference.Domain(typed) != host {
		return "", fmt.Errorf("public_url: no client can type the host %q in an image reference (letters, digits, dots and hyphens; internationalized names in their xn-- form)", host)
	}
	return host, nil
}

// Public returns PublicURL in its normal form.
func (c Config) Public() *url.URL {
	u, err := normalizePublicURL(c.PublicURL)
	if err != nil { // Load has checked it
		return &url.URL{}
	}
	return u
}

// WrittenHost returns the host[:port] of PublicURL as it is written in the settings, which is not always the host of Public.
func (c Config) WrittenHost() string {
	u, err := url.Parse(c.PublicURL)
	if err != nil { // Load has checked it
		return ""
	}
	return u.Host
}
