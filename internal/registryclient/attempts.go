package registryclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/retry"
)

// Waits between attempts.
const (
	firstWait     = 500 * time.Millisecond
	maxWait       = 30 * time.Second
	maxRetryAfter = 2 * time.Minute // a registry that wants a longer wait is not asked again
)

// Policy returns the waits between attempts after failures of a registry, for so many attempts.
func Policy(attempts int) retry.Policy {
	return retry.Policy{Attempts: attempts, First: firstWait, Max: maxWait}
}

// temporaryStatus is a response that another attempt may change.
type temporaryStatus struct{ response *http.Response }

// Error returns the status.
func (e *temporaryStatus) Error() string {
	return fmt.Sprintf("%d %s", e.response.StatusCode, http.StatusText(e.response.StatusCode))
}

// retried makes attempts until one brings a final response, or none is left.
func (c *Client) retried(
	ctx context.Context, q Request, attempt func(context.Context) (*http.Response, error),
) (*http.Response, error) {
	attempts := c.options.Retries + 1
	if q.Stream != nil {
		attempts = 1
	}
	policy := Policy(attempts)
	policy.Retrying = func(err error, wait time.Duration) {
		if status, ok := errors.AsType[*temporaryStatus](err); ok {
			drain(status.response)
		}
		if c.options.Retrying != nil {
			c.options.Retrying(ctx, q.URL, Sanitized(err), wait)
		}
	}
	res, err := retry.Do(ctx, policy, func(ctx context.Context) (*http.Response, error) {
		res, err := attempt(ctx)
		return res, classified(ctx, res, err)
	})
	if _, last := errors.AsType[*temporaryStatus](err); last {
		return res, nil
	}
	if err != nil {
		if res != nil {
			drain(res)
		}
		return nil, err
	}
	return res, nil
}

// classified returns the error of an attempt, marked as permanent unless another attempt may help. A temporary status
// is an error too.
func classified(ctx context.Context, res *http.Response, err error) error {
	switch {
	case err != nil && (ctx.Err() != nil || !maySucceedLater(err)):
		return retry.Permanent(err)
	case err != nil:
		return err
	case !TemporaryStatus(res.StatusCode):
		return nil
	}
	status := &temporaryStatus{res}
	after, ok := RetryAfter(res.Header, time.Now())
	switch {
	case !ok:
		return status
	case after > maxRetryAfter:
		return retry.Permanent(status)
	}
	return retry.After(status, after)
}

// maySucceedLater reports whether another attempt may succeed after an error. It does not after a decision of this
// client (a fault.Error), a certificate that is not trusted, or a malformed response of a token service.
func maySucceedLater(err error) bool {
	if refused, ok := errors.AsType[*RefusedError](err); ok { // by the token service
		return TemporaryStatus(refused.Status)
	}
	_, decided := errors.AsType[*fault.Error](err)
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	return !decided && !untrusted && !errors.Is(err, ErrNoService) && !errors.Is(err, ErrNoToken)
}

// TemporaryStatus reports whether a registry that answers with a status may answer otherwise a little later.
func TemporaryStatus(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable,
		http.StatusGatewayTimeout:
		return true
	}
	return false
}

// RetryAfter returns the wait of a Retry-After header: seconds, or a date (RFC 9110, section 10.2.3). A date in the
// past is no wait, and a number of seconds that is too large for a Duration is the longest one. ok is false without
// the header or if it is malformed.
func RetryAfter(h http.Header, now time.Time) (wait time.Duration, ok bool) {
	text := h.Get("Retry-After")
	n, err := strconv.ParseUint(text, 10, 64)
	switch {
	case err == nil && n <= math.MaxInt64/uint64(time.Second):
		return time.Duration(n) * time.Second, true
	case err == nil || errors.Is(err, strconv.ErrRange):
		return math.MaxInt64, true
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now)), true
	}
	return 0, false
}
