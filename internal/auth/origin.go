package auth

import (
	"net/http"
	"net/url"
	"strings"
)

// Origins rejects cross-origin requests of browsers, which contain the credentials that the user entered before.
type Origins struct{ protection http.CrossOriginProtection }

// defaultPorts are the ports that browsers omit from an origin, by scheme.
var defaultPorts = map[string]string{"http": ":80", "https": ":443"}

// NewOrigins returns an Origins that trusts the origin of the public URL, whatever the Host header is: a proxy may
// change that header.
func NewOrigins(public *url.URL) (*Origins, error) {
	o := &Origins{}
	origin := url.URL{Scheme: public.Scheme, Host: strings.TrimSuffix(public.Host, defaultPorts[public.Scheme])}
	return o, o.protection.AddTrustedOrigin(origin.String())
}

// OtherOrigin is the message for requests that Origins rejects.
const OtherOrigin = "Requests from pages of another origin are refused; this server's origin is its public_url."

// Allows reports whether a request has a safe method or comes from the trusted or its own origin. It allows requests
// without the headers Sec-Fetch-Site and Origin, since they do not come from a browser.
func (o *Origins) Allows(r *http.Request) bool { return o.protection.Check(r) == nil }
