package mirror

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/registryclient"
)

// Bounds of requests.
const (
	maxRedirects  = 5
	maxErrorBody  = 64 << 10
	firstWait     = 500 * time.Millisecond // before the first retry; twice as long before each further one
	maxWait       = 30 * time.Second
	maxRetryAfter = 2 * time.Minute  // a remote that wants more is asked no more
	maxAnswer     = 10 * time.Minute // for an answer that is no blob, and for the headers of one that is, over all redirects
	drainTime     = 5 * time.Second  // for the rest of an answer that nobody reads
)

// request is one request to a remote.
type request struct {
	method    string
	url       *url.URL
	header    http.Header
	anonymous bool // without credentials and the remote's own headers
	blob      bool // the answer is as large as a blob, and may take as long
}

// redirectable marks the context of requests that may go to other hosts: all but those to token services.
type redirectable struct{}

// at returns the URL of a path of the remote's.
func (g *Registry) at(path string) *url.URL {
	u := *g.base
	u.Path += path
	return &u
}

// do sends a request, with credentials where they are asked for, and again while the remote cannot. The answer is one that says yes, 404 or another no; its body is bounded in time.
func (g *Registry) do(ctx context.Context, q request) (*http.Response, error) {
	return g.again(ctx, q, func() (*http.Response, error) { return g.once(ctx, q) })
}

// document is a whole answer of 200.
type document struct {
	url    *url.URL // where it was, after redirects
	header http.Header
	body   []byte
}

// document returns an answer of 200 with at most so many bytes. One that breaks off is asked for again; one that is too slow is not.
func (g *Registry) document(ctx context.Context, q request, limit int64) (document, error) {
	var body []byte
	res, err := g.again(ctx, q, func() (*http.Response, error) { //nolint:bodyclose // readAll and refused end it
		ctx, meter := g.network.Pace.Start(ctx)
		defer meter.Stop()
		res, err := g.once(ctx, q)
		if err != nil {
			return nil, err
		}
		if res.StatusCode != http.StatusOK {
			drain(res) // while its context lives
			return res, nil
		}
		if body, err = readAll(res, meter, limit); err != nil {
			return nil, err
		}
		return res, nil
	})
	if err != nil {
		return document{}, err
	}
	if res.StatusCode != http.StatusOK {
		return document{}, refused(res)
	}
	return document{res.Request.URL, res.Header, body}, nil
}

// retries is how often a request is sent again, and a blob's connection made anew.
func (g *Registry) retries() int64 {
	if n := g.remote.Connection.MaxRetries; n != nil {
		return min(*n, maxRetries)
	}
	return defaultRetries
}

func (g *Registry) again(ctx context.Context, q request, once func() (*http.Response, error)) (*http.Response, error) {
	for attempt := int64(0); ; attempt++ {
		res, err := once()
		wait, again := retryable(ctx, res, err, attempt)
		if !again || attempt >= g.retries() {
			return res, g.failed(q, err)
		}
		if res != nil {
			drain(res)
		}
		g.network.Log.DebugContext(ctx, "the remote is asked again", slog.String("url", registryclient.Plain(q.url)), slog.Duration("after", wait), slog.String("err", plainText(err)))
		if err := pause(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// pause waits, unless the caller goes away.
func pause(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// backoff is how long to wait before a further try: longer each time, and never quite the same.
func backoff(attempt int64) time.Duration {
	wait := min(firstWait<<min(attempt, 10), maxWait)
	return wait + rand.N(wait/2+1) //nolint:gosec // no secret
}

// passing says whether a status is one that may be another a little later.
func passing(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// retryable says whether a request is worth another try, and when.
func retryable(ctx context.Context, res *http.Response, err error, attempt int64) (time.Duration, bool) {
	wait := backoff(attempt)
	if err != nil {
		if e, ok := errors.AsType[*registryclient.RefusedError](err); ok { // by the token service
			return wait, ctx.Err() == nil && passing(e.Status)
		}
		_, decided := errors.AsType[*fault.Error](err) // an address that is not allowed, a redirect that is refused
		_, stranger := errors.AsType[*tls.CertificateVerificationError](err)
		return wait, ctx.Err() == nil && !decided && !stranger && !errors.Is(err, registryclient.ErrNoService) && !errors.Is(err, registryclient.ErrNoToken)
	}
	if !passing(res.StatusCode) {
		return 0, false
	}
	if after, ok := retryAfter(res.Header.Get("Retry-After"), time.Now()); ok {
		return after, after <= maxRetryAfter
	}
	return wait, true
}

// retryAfter reads a Retry-After header: seconds, or a date (RFC 9110 section 10.2.3).
func retryAfter(text string, now time.Time) (time.Duration, bool) {
	if n, err := strconv.ParseInt(text, 10, 32); err == nil && n >= 0 {
		return time.Duration(n) * time.Second, true
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now)), true
	}
	return 0, false
}

// once sends a request once, and once more with fresh credentials when the remote, or a host that it redirects to, asks for them. A remote that redirects to ever new
// hosts gets as many further requests as a chain of redirects has hosts.
func (g *Registry) once(ctx context.Context, q request) (*http.Response, error) {
	scopes := []string{"repository:" + g.name + ":pull"}
	asked := map[string]bool{}
	for {
		if g.rate != nil {
			if err := g.rate.Wait(ctx); err != nil {
				return nil, err
			}
		}
		res, err := g.send(ctx, q, scopes)
		if err != nil || q.anonymous || res.StatusCode != http.StatusUnauthorized || asked[hostOf(res.Request.URL)] || len(asked) > maxRedirects {
			return res, err
		}
		asked[hostOf(res.Request.URL)] = true
		if registryclient.SameHost(res.Request.URL, g.base) {
			err = g.auth.Learn(res, scopes)
		} else {
			err = g.guests.learn(res)
		}
		if err != nil {
			if _, refused := errors.AsType[*registryclient.RefusedError](err); refused {
				return res, nil // its 401 says it
			}
			drain(res)
			return nil, err
		}
		drain(res)
	}
}

func (g *Registry) send(ctx context.Context, q request, scopes []string) (*http.Response, error) {
	c := g.remote.Connection
	ctx, cancel := context.WithCancelCause(ctx)
	stop := func() { cancel(nil) }
	total := seconds(c.TotalTimeout, 0)
	if !q.blob && (total == 0 || total > maxAnswer) {
		total = maxAnswer
	}
	if total > 0 {
		timer := time.AfterFunc(total, func() { cancel(fmt.Errorf("the remote took longer than %v", total)) })
		stop = func() { timer.Stop(); cancel(nil) }
	}
	r, err := http.NewRequestWithContext(ctx, q.method, q.url.String(), nil)
	if err != nil {
		stop()
		return nil, err
	}
	r.Header.Set("User-Agent", g.network.UserAgent)
	if !q.anonymous && registryclient.SameHost(q.url, g.base) {
		for _, h := range c.Headers {
			for key, value := range h {
				r.Header.Set(key, value) // net/http leaves out those that would say another host or length
			}
		}
	}
	for key, values := range q.header { // what the request is about is not for the remote's settings to change
		r.Header[key] = values
	}
	if !q.anonymous {
		if registryclient.SameHost(q.url, g.base) {
			err = g.auth.Authorize(ctx, r, scopes)
		} else {
			err = g.guests.authorize(ctx, r)
		}
		if err != nil {
			stop()
			return nil, err
		}
	}
	r = r.WithContext(context.WithValue(ctx, redirectable{}, true)) // but not its token
	headers := time.AfterFunc(maxAnswer, func() { cancel(fmt.Errorf("the remote took longer than %v to answer", maxAnswer)) })
	res, err := g.client.Do(r)
	headers.Stop()
	if err != nil {
		cause := context.Cause(ctx)
		stop()
		if cause != nil && !errors.Is(cause, context.Canceled) {
			err = cause
		}
		return nil, err
	}
	res.Body = newTimed(ctx, res.Body, seconds(c.SockReadTimeout, defaultIdle), cancel, stop)
	return res, nil
}

// redirect decides about a redirect. Another host gets neither the remote's credentials nor its headers, only an anonymous token of its own where it has asked for one. Token
// services may not redirect to another host.
func (g *Registry) redirect(r *http.Request, via []*http.Request) error {
	first := via[0].URL
	switch {
	case len(via) > maxRedirects:
		return fault.New(fault.Unavailable, "The remote redirects more than %d times.", maxRedirects)
	case r.URL.Scheme != "https" && (r.URL.Scheme != "http" || via[len(via)-1].URL.Scheme == "https"):
		return fault.New(fault.Denied, "The remote redirects from https to %s://%s; that is refused.", r.URL.Scheme, r.URL.Host)
	case registryclient.SameHost(r.URL, first):
		return nil
	case r.Context().Value(redirectable{}) == nil:
		return fault.New(fault.Denied, "The remote's token service redirects to another host, %s; that is refused.", r.URL.Host)
	}
	keep := http.Header{}
	for _, key := range []string{"Accept", "Range", "User-Agent"} {
		if v := r.Header.Values(key); len(v) > 0 {
			keep[key] = v
		}
	}
	r.Header = keep //nolint:gosec // nothing else of the old ones goes on: that is the point
	return g.guests.authorize(r.Context(), r)
}

// failed is the error of a request that got no answer, or none that lets in.
func (g *Registry) failed(q request, err error) error {
	if err == nil {
		return nil
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	if e, ok := errors.AsType[*registryclient.RefusedError](err); ok {
		f := status(e.Status, e.URL)
		f.Kind = fault.Unavailable // a token service that is not there says nothing of the manifest
		return f
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	if e, ok := errors.AsType[*brokenError](err); ok {
		return fault.Wrap(fault.Unavailable, &plainError{e.err}, "The remote broke off its answer, url='%s'", registryclient.Plain(q.url))
	}
	return fault.Wrap(fault.Unavailable, &plainError{err}, "Cannot reach the remote: %s, url='%s'", plainText(err), registryclient.Plain(q.url))
}

// brokenError is why an answer ended before its end.
type brokenError struct{ err error }

// Error implements error.
func (e *brokenError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *brokenError) Unwrap() error { return e.err }

// plainError is an error whose text has no secrets.
type plainError struct{ err error }

// Error implements error.
func (e *plainError) Error() string { return plainText(e.err) }

// Unwrap returns the error with all its text.
func (e *plainError) Unwrap() error { return e.err }

// secretParts are a URL's query and user, which let in whoever knows them.
var secretParts = regexp.MustCompile(`\?[^\s"'<>]*|//[^\s/@"']*@`)

// plainText says in a few words why there was no answer, without credentials and without this server's own addresses.
func plainText(err error) string {
	if err == nil {
		return ""
	}
	if u, ok := errors.AsType[*url.Error](err); ok { // its text has the whole URL
		err = u.Err
	}
	text := err.Error()
	if e, ok := errors.AsType[*net.OpError](err); ok {
		text = fmt.Sprintf("%s %v: %v", e.Op, e.Addr, e.Err)
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		text = fmt.Sprintf("lookup %s: %s", e.Name, e.Err)
	}
	text = secretParts.ReplaceAllString(text, "")
	if len(text) > 200 {
		text = text[:200]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, text)
}

// status is the error of an answer that says no, in the words of the reference's client (contract 6).
func status(code int, at string) *fault.Error {
	kind := fault.Unavailable
	if code == http.StatusNotFound || code == http.StatusGone {
		kind = fault.NotFound
	}
	return fault.New(kind, "%d, message='%s', url='%s'", code, http.StatusText(code), at)
}

// refusal is the error of an answer that says no.
type refusal struct {
	fault  *fault.Error
	status int
}

// Error implements error.
func (r *refusal) Error() string { return r.fault.Error() }

// Unwrap returns the error that is safe to show.
func (r *refusal) Unwrap() error { return r.fault }

// refused returns the error of an answer that says no. It ends the answer.
func refused(res *http.Response) error {
	drain(res)
	return &refusal{status(res.StatusCode, registryclient.Plain(res.Request.URL)), res.StatusCode}
}

// drain ends an answer so that its connection can be used again, unless that takes long.
func drain(res *http.Response) {
	if t, ok := res.Body.(*timed); ok {
		defer time.AfterFunc(drainTime, t.stop).Stop()
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxErrorBody))
	_ = res.Body.Close()
}

// readAll reads a body of at most so many bytes, at the meter's pace.
func readAll(res *http.Response, meter *Meter, limit int64) ([]byte, error) {
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(meter.Reader(res.Body), limit+1))
	switch {
	case err != nil:
		return nil, &brokenError{err}
	case int64(len(b)) > limit:
		return nil, fault.New(fault.Unavailable, "The remote's answer is larger than %d bytes, url='%s'", limit, registryclient.Plain(res.Request.URL))
	}
	return b, nil
}

// timed is a body that must not fall silent.
type timed struct {
	io.ReadCloser
	ctx   context.Context //nolint:containedctx // it is the answer's
	idle  time.Duration
	timer *time.Timer
	stop  func()
}

func newTimed(ctx context.Context, body io.ReadCloser, idle time.Duration, cancel context.CancelCauseFunc, stop func()) io.ReadCloser {
	t := &timed{ReadCloser: body, ctx: ctx, idle: idle, stop: stop}
	if idle > 0 {
		t.timer = time.AfterFunc(idle, func() { cancel(fmt.Errorf("the remote sent nothing for %v", idle)) })
		t.timer.Stop() // until somebody reads
	}
	return t
}

// Read implements io.Reader.
func (t *timed) Read(p []byte) (int, error) {
	if t.timer != nil {
		t.timer.Reset(t.idle)
		defer t.timer.Stop() // whoever reads may take its time between
	}
	n, err := t.ReadCloser.Read(p)
	if cause := context.Cause(t.ctx); err != nil && !errors.Is(err, io.EOF) && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause // says more than that it was broken off
	}
	return n, err
}

// Close implements io.Closer.
func (t *timed) Close() error {
	if t.timer != nil {
		t.timer.Stop()
	}
	err := t.ReadCloser.Close()
	t.stop()
	return err
}
