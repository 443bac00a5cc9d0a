// Package registryclient sends requests to other registries: the remotes of internal/mirror and the upstream of
// storage/upstream.
//
// A Client is for one registry. It authorizes requests (Basic, or a token for each scope), sends them again while a
// failure may be temporary, follows redirects, and bounds the time and the size of responses. Callers interpret the
// responses: each has its own rules for statuses.
//
// There are two levels of trust. Credentials go to the registry's own scheme, host and port at both of them, and the
// password otherwise only to a token service that Login.Trusts names; any other token service is asked without it.
//
//   - The upstream belongs to the operator. Redirects lose the credentials at another host and are followed
//     otherwise.
//   - A remote is a URL that a user has entered (Options.Untrusted). Redirects from https to http are refused, and so
//     are redirects of a token service to another host. Another host gets the headers Accept, Range and User-Agent,
//     and an anonymous token if it asks for one (guests). Connections are made by a Guard, which checks the address
//     of each.
package registryclient

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/time/rate"
)

// Options describe a registry and the rules of the requests to it.
type Options struct {
	// Base is the URL of the registry, without a closing slash. Credentials and Header go to its scheme, host and port.
	Base *url.URL
	// Transport makes the connections. For an untrusted registry it must dial with a Guard.
	Transport http.RoundTripper
	Login     Login
	// Untrusted applies the rules for remotes, which the package comment lists.
	Untrusted bool
	// MaxRedirects is the maximum number of redirects of one request.
	MaxRedirects int
	// UserAgent names this program to all hosts; empty means the name of net/http.
	UserAgent string
	// Header is added to requests to the registry itself. The headers of a Request replace it.
	Header http.Header
	// Limiter delays requests; nil means no delay.
	Limiter *rate.Limiter
	// HeaderTimeout bounds the time from a request to the headers of its response, over all redirects; 0 means no
	// bound.
	HeaderTimeout time.Duration
	// IdleTimeout bounds each read from the body of a response; 0 means no bound.
	IdleTimeout time.Duration
	// Retries is the number of further attempts after a failure that may be temporary.
	Retries int
	// Retrying is called before each further attempt, with an error that contains no secrets; nil means no call.
	Retrying func(ctx context.Context, at *url.URL, err error, wait time.Duration)
	// Pace is the minimum rate at which a Document must arrive; the zero Pace means DefaultPace.
	Pace Pace
}

// Client sends requests to one registry. It is safe for concurrent use.
type Client struct {
	options     Options
	http        *http.Client
	credentials *Credentials
	guests      guests
}

// New returns a client. It sends no request.
func New(o Options) *Client {
	c := &Client{options: o, http: &http.Client{Transport: o.Transport}}
	c.http.CheckRedirect = c.redirect
	c.credentials = NewCredentials(o.Base, c.http, o.Login)
	c.guests.client = c.http
	return c
}

// Request is a request to the registry, or to a place that one of its responses names.
type Request struct {
	Method string
	URL    *url.URL
	Header http.Header
	// Scopes are the scopes of the token that the request needs, such as repository:app:pull.
	Scopes []string
	// Anonymous sends the request without credentials and without Options.Header.
	Anonymous bool
	// Body is a body that can be sent again.
	Body []byte
	// Stream is a body that cannot: the request is sent once. Length is its size in bytes; -1 means that it is not
	// known.
	Stream io.Reader
	Length int64
	// Timeout bounds the whole exchange, the body of the response included; 0 means no bound.
	Timeout time.Duration
	// PassThrough returns a redirect that clients can follow themselves instead of following it: one to another host
	// that needs no credentials, and not from https to http.
	PassThrough bool
}

// Do sends a request and returns the first response that is final: any status but a temporary one, or the last one
// when no attempt is left. A 401 is final if the credentials do not help. The caller closes the body.
//
// Errors are those of the transport, of redirects (a *fault.Error for a rule of untrusted registries), and of the
// token service.
func (c *Client) Do(ctx context.Context, q Request) (*http.Response, error) {
	return c.retried(ctx, q, func(ctx context.Context) (*http.Response, error) { return c.once(ctx, q) })
}

// once sends a request, and again with new credentials when the registry, or a host that it redirects to, asks for
// them. A registry that redirects to a new host each time gets no more further requests than a chain of redirects has
// hosts.
func (c *Client) once(ctx context.Context, q Request) (*http.Response, error) {
	challenged := map[string]bool{}
	for {
		if c.options.Limiter != nil {
			if err := c.options.Limiter.Wait(ctx); err != nil {
				return nil, err
			}
		}
		res, err := c.send(ctx, q)
		if err != nil || res.StatusCode != http.StatusUnauthorized || q.Anonymous || q.Stream != nil {
			return res, err
		}
		host := origin(res.Request.URL)
		if challenged[host] || len(challenged) > c.options.MaxRedirects {
			return res, nil
		}
		challenged[host] = true
		switch {
		case SameHost(res.Request.URL, c.options.Base):
			err = c.credentials.HandleChallenge(res, q.Scopes)
		case c.options.Untrusted:
			err = c.guests.handleChallenge(res)
		default:
			return res, nil
		}
		if _, refused := errors.AsType[*RefusedError](err); refused {
			return res, nil // the caller reports its status
		}
		drain(res)
		if err != nil {
			return nil, err
		}
	}
}

// send sends a request once, with the credentials that are known.
func (c *Client) send(ctx context.Context, q Request) (*http.Response, error) {
	limits, ctx := c.bound(ctx, q.Timeout)
	r, err := c.build(ctx, q)
	if err != nil {
		limits.stop()
		return nil, err
	}
	ctx = context.WithValue(ctx, redirectRules{}, redirectRules{mayLeaveHost: true, passThrough: q.PassThrough})
	headers := limits.headers(c.options.HeaderTimeout)
	res, err := c.http.Do(r.WithContext(ctx))
	headers()
	if err != nil {
		return nil, limits.failed(err)
	}
	res.Body = limits.body(res.Body, c.options.IdleTimeout)
	return res, nil
}

// build returns a request with its headers and credentials.
func (c *Client) build(ctx context.Context, q Request) (*http.Request, error) {
	var body io.Reader
	switch {
	case q.Stream != nil && q.Length != 0:
		body = q.Stream
	case q.Body != nil:
		body = bytes.NewReader(q.Body)
	}
	r, err := http.NewRequestWithContext(ctx, q.Method, q.URL.String(), body)
	if err != nil {
		return nil, err
	}
	if body != nil && q.Stream != nil {
		r.ContentLength = q.Length
	}
	if c.options.UserAgent != "" {
		r.Header.Set("User-Agent", c.options.UserAgent)
	}
	own := SameHost(q.URL, c.options.Base)
	if own && !q.Anonymous {
		for key, values := range c.options.Header { // net/http ignores those that would change the host or the length
			r.Header[key] = values
		}
	}
	for key, values := range q.Header {
		r.Header[key] = values
	}
	switch {
	case q.Anonymous:
	case own:
		err = c.credentials.Authorize(ctx, r, q.Scopes)
	case c.options.Untrusted:
		err = c.guests.authorize(ctx, r)
	}
	return r, err
}
