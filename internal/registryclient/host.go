package registryclient

import (
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"
)

var defaultPorts = map[string]string{"http": ":80", "https": ":443"}

// SameHost reports whether two URLs have the same scheme, host and port.
func SameHost(a, b *url.URL) bool { return a.Scheme == b.Scheme && hostPort(a) == hostPort(b) }

// HostIn reports whether the host and port of a URL are in a list of host[:port]. An entry without a port means the
// default port of the URL's scheme.
func HostIn(u *url.URL, hosts []string) bool {
	return slices.ContainsFunc(hosts, func(host string) bool {
		return host != "" && hostPort(&url.URL{Scheme: u.Scheme, Host: host}) == hostPort(u)
	})
}

// SameDomain reports whether two URLs are both https and their hosts share the registered domain: the public suffix
// and one label. Addresses share no domain.
func SameDomain(a, b *url.URL) bool {
	mine, ok := registeredDomain(a)
	other, ok2 := registeredDomain(b)
	return ok && ok2 && mine == other
}

func registeredDomain(u *url.URL) (string, bool) {
	if _, isAddress := parseAddress(u.Hostname()); isAddress || u.Scheme != "https" {
		return "", false
	}
	domain, err := publicsuffix.EffectiveTLDPlusOne(u.Hostname())
	return domain, err == nil
}

// hostPort returns the host and port of a URL in lower case, without the default port of the scheme: many registries
// and proxies write it.
func hostPort(u *url.URL) string {
	return strings.TrimSuffix(strings.ToLower(u.Host), defaultPorts[u.Scheme])
}

// origin returns the scheme, host and port of a URL as they are written.
func origin(u *url.URL) string { return u.Scheme + "://" + u.Host }

// PlainURL returns a URL without its query, user and fragment, which may contain secrets.
func PlainURL(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// ParseURL reads an http or https URL without a user. The result has a lower-case host, and neither the default port
// of its scheme, a closing slash, a query nor a fragment. ok is false if the text is not such a URL.
func ParseURL(text string) (u *url.URL, ok bool) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return nil, false
	}
	u.Path, u.RawPath, u.RawQuery, u.Fragment = strings.TrimRight(u.Path, "/"), "", "", ""
	u.Host = hostPort(u)
	return u, true
}
