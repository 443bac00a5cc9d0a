package auth

import (
	"net/http"
	"net/url"
	"strings"
)

// Origins refuses requests that a browser makes for a page of another origin: browsers send a user's password with them.
type Origins struct{ protection http.CrossOriginProtection }

// defaultPorts are the ports that browsers leave out of an origin.
var defaultPorts = map[string]string{"http": ":80", "https": ":443"}

// NewOrigins returns an Origins that trusts the origin of the public URL. The Host header need not be that of the URL: a proxy may have changed it.
func NewOrigins(public *url.URL) (*Origins, error) {
	o := &Origins{}
	origin := url.URL{Scheme: public.Scheme, Host: strings.TrimSuffix(public.Host, defaultPorts[public.Scheme])}
	return o, o.protection.AddTrustedOrigin(origin.String())
}

// OtherOrigin is the message for requests that Origins does not allow.
const OtherOrigin = "Requests from pages of another origin are refused; this server's origin is its public_url."

// Allows reports whether a request comes from no other origin, or its method is safe. Requests without Sec-Fetch-Site and Origin are not from a browser, and
// are allowed.
func (o *Origins) Allows(r *http.Request) bool { return o.protection.Check(r) == nil }
