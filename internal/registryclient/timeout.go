package registryclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Bounds of the rest of a response that nobody reads.
const (
	maxDrained   = 64 << 10
	drainTimeout = 5 * time.Second
)

// exchange bounds the time of one request and its response.
type exchange struct {
	ctx    context.Context //nolint:containedctx // the context of the exchange
	cancel context.CancelCauseFunc
	total  *time.Timer // nil without a bound
}

// bound returns an exchange that ends after total, unless that is 0, and its context. The caller calls stop in the
// end, or closes the body.
func (c *Client) bound(ctx context.Context, total time.Duration) (*exchange, context.Context) {
	e := &exchange{ctx: ctx}
	if total <= 0 && c.options.HeaderTimeout <= 0 && c.options.IdleTimeout <= 0 {
		return e, ctx
	}
	e.ctx, e.cancel = context.WithCancelCause(ctx)
	if total > 0 {
		e.total = time.AfterFunc(total, func() { e.cancel(fmt.Errorf("the remote took longer than %v", total)) })
	}
	return e, e.ctx
}

// stop releases the exchange and ends what is left of it.
func (e *exchange) stop() {
	if e.total != nil {
		e.total.Stop()
	}
	if e.cancel != nil {
		e.cancel(nil)
	}
}

// headers bounds the time until the returned function is called; 0 means no bound.
func (e *exchange) headers(timeout time.Duration) (arrived func()) {
	if timeout <= 0 {
		return func() {}
	}
	timer := time.AfterFunc(timeout, func() { e.cancel(fmt.Errorf("the remote took longer than %v to answer", timeout)) })
	return func() { timer.Stop() }
}

// failed ends the exchange after an error. It returns the reason why a bound of time ended it, or err.
func (e *exchange) failed(err error) error {
	cause := context.Cause(e.ctx)
	e.stop()
	if cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// body returns a body whose reads end after idle, unless that is 0, and with the exchange. Closing it ends the
// exchange.
func (e *exchange) body(body io.ReadCloser, idle time.Duration) io.ReadCloser {
	if e.cancel == nil {
		return body
	}
	b := &boundedBody{ReadCloser: body, exchange: e, idle: idle}
	if idle > 0 {
		b.timer = time.AfterFunc(idle, func() { e.cancel(fmt.Errorf("the remote sent nothing for %v", idle)) })
		b.timer.Stop() // until the first read
	}
	return b
}

// boundedBody is the body of a response whose exchange is bounded.
type boundedBody struct {
	io.ReadCloser
	exchange *exchange
	idle     time.Duration
	timer    *time.Timer
}

// Read implements io.Reader. The time between two reads does not count.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.timer != nil {
		b.timer.Reset(b.idle)
		defer b.timer.Stop()
	}
	n, err := b.ReadCloser.Read(p)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if cause := context.Cause(b.exchange.ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause // the reason, instead of "context canceled"
	}
	return n, err
}

// Close implements io.Closer.
func (b *boundedBody) Close() error {
	if b.timer != nil {
		b.timer.Stop()
	}
	err := b.ReadCloser.Close()
	b.exchange.stop()
	return err
}

// Discard reads the rest of a small body before the caller closes it, so that the connection can be used again. It
// gives up a large body, and one that is slow if the client bounds times.
func Discard(body io.Reader) {
	if b, ok := body.(*boundedBody); ok {
		defer time.AfterFunc(drainTimeout, b.exchange.stop).Stop()
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(body, maxDrained))
}

// drain discards and closes the body of a response.
func drain(res *http.Response) {
	Discard(res.Body)
	_ = res.Body.Close()
}
