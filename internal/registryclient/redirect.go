package registryclient

import (
	"errors"
	"net/http"

	"github.com/countersign/countersign/internal/fault"
)

// redirectRules are the rules for the redirects of one request, and the key of its context under which they are.
// Requests to token services have none there.
type redirectRules struct {
	mayLeaveHost bool
	passThrough  bool // the caller wants a redirect that its own clients can follow
}

// redirect implements http.Client.CheckRedirect.
func (c *Client) redirect(r *http.Request, via []*http.Request) error {
	rules, _ := r.Context().Value(redirectRules{}).(redirectRules)
	switch {
	case rules.passThrough && c.clientsMayFollow(r):
		return http.ErrUseLastResponse
	case c.options.Untrusted:
		return c.redirectUntrusted(r, via, rules)
	case len(via) >= c.options.MaxRedirects:
		return errors.New("too many redirects")
	case !SameHost(r.URL, via[0].URL):
		// net/http alone keeps credentials for other ports and schemes of a host, and for the hosts below it.
		r.Header.Del("Authorization")
		r.Header.Del("Referer") // the location of an upload may be a secret
	}
	return nil
}

// clientsMayFollow reports whether clients of this server can follow a redirect: it leads to another host, which
// needs none of our credentials, and not from https to http.
func (c *Client) clientsMayFollow(r *http.Request) bool {
	to, base := r.URL, c.options.Base
	return !SameHost(to, base) && to.User == nil && (to.Scheme == "https" || to.Scheme == "http" && base.Scheme == "http")
}

// redirectUntrusted applies the rules for remotes. A request to another host keeps three headers and gets an
// anonymous token if the host has asked for one before.
func (c *Client) redirectUntrusted(r *http.Request, via []*http.Request, rules redirectRules) error {
	last := via[len(via)-1].URL
	switch {
	case len(via) > c.options.MaxRedirects:
		return fault.New(fault.Unavailable, "The remote redirects more than %d times.", c.options.MaxRedirects)
	case r.URL.Scheme != "https" && (r.URL.Scheme != "http" || last.Scheme == "https"):
		return fault.New(fault.Denied, "The remote redirects from https to %s://%s; that is refused.", r.URL.Scheme, r.URL.Host)
	case SameHost(r.URL, via[0].URL):
		return nil
	case !rules.mayLeaveHost:
		return fault.New(fault.Denied, "The remote's token service redirects to another host, %s; that is refused.", r.URL.Host)
	}
	keep := http.Header{}
	for _, key := range []string{"Accept", "Range", "User-Agent"} {
		if v := r.Header.Values(key); len(v) > 0 {
			keep[key] = v
		}
	}
	r.Header = keep //nolint:gosec // the other headers must not reach another host
	return c.guests.authorize(r.Context(), r)
}
