package mirror

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/registryclient"
)

// request is a GET or HEAD of a remote.
type request struct {
	method    string
	url       *url.URL
	header    http.Header
	anonymous bool // without credentials and the remote's own headers
	blob      bool // the response may be as large as a blob, and may take as long
}

// at returns the URL of a path of the remote.
func (g *Registry) at(path string) *url.URL {
	u := *g.base
	u.Path += path
	return &u
}

// repository returns the URL of a path below the repository.
func (g *Registry) repository(path string) *url.URL { return g.at("/v2/" + g.name + path) }

// prepared returns the request for the client. A response that is not a blob must end within maxExchange.
func (g *Registry) prepared(q request) registryclient.Request {
	total := seconds(g.remote.Connection.TotalTimeout, 0)
	if !q.blob && (total == 0 || total > maxExchange) {
		total = maxExchange
	}
	return registryclient.Request{
		Method: q.method, URL: q.url, Header: q.header, Anonymous: q.anonymous, Timeout: total,
		Scopes: []string{"repository:" + g.name + ":pull"},
	}
}

// do sends a request and returns its response, whatever the status. The caller closes the body.
func (g *Registry) do(ctx context.Context, q request) (*http.Response, error) {
	res, err := g.client.Do(ctx, g.prepared(q))
	if err != nil {
		return nil, failed(q, err)
	}
	return res, nil
}

// document sends a request and returns the response with its body, of at most limit bytes. It returns a refusal
// unless the status is 200.
func (g *Registry) document(ctx context.Context, q request, limit int64) (registryclient.Document, error) {
	d, err := g.client.Document(ctx, g.prepared(q), limit)
	switch {
	case err != nil:
		return d, failed(q, err)
	case d.Status != http.StatusOK:
		return d, refusedAt(d.Status, d.URL)
	}
	return d, nil
}

// failed returns the error of a request without a response.
func failed(q request, err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	if refused, ok := errors.AsType[*registryclient.RefusedError](err); ok {
		f := status(refused.Status, refused.URL)
		f.Kind = fault.Unavailable // 404 of a token service does not mean that the manifest does not exist
		return f
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	at := registryclient.PlainURL(q.url)
	if broken, ok := errors.AsType[*registryclient.BrokenError](err); ok {
		return fault.Wrap(fault.Unavailable, registryclient.Sanitized(broken.Err), "The remote broke off its answer, url='%s'", at)
	}
	cause := registryclient.Sanitized(err)
	return fault.Wrap(fault.Unavailable, cause, "Cannot reach the remote: %s, url='%s'", cause, at)
}

// status returns the error of a response with another status than the expected one, in the words of Pulp's client.
func status(code int, at string) *fault.Error {
	kind := fault.Unavailable
	if code == http.StatusNotFound || code == http.StatusGone {
		kind = fault.NotFound
	}
	return fault.New(kind, "%d, message='%s', url='%s'", code, http.StatusText(code), at)
}

// refusal is the error of a response with another status than the expected one.
type refusal struct {
	fault  *fault.Error
	status int
}

// Error implements error.
func (r *refusal) Error() string { return r.fault.Error() }

// Unwrap returns the error that is safe to show.
func (r *refusal) Unwrap() error { return r.fault }

// Status returns the status of the response that an error is about; 0 if the error has another reason.
func Status(err error) int {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status
	}
	return 0
}

// refused returns the refusal of a response, and drains its body.
func refused(res *http.Response) error {
	drain(res)
	return refusedAt(res.StatusCode, res.Request.URL)
}

func refusedAt(code int, at *url.URL) error {
	return &refusal{status(code, registryclient.PlainURL(at)), code}
}

// drain discards and closes the body of a response.
func drain(res *http.Response) {
	registryclient.Discard(res.Body)
	_ = res.Body.Close()
}
