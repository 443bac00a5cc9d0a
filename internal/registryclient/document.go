package registryclient

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"github.com/countersign/countersign/internal/fault"
)

// Document is a response whose body has been read. Body is nil unless the status is 200.
type Document struct {
	Status int
	URL    *url.URL // where it was, after redirects
	Header http.Header
	Body   []byte
}

// Document sends a request as Do does and reads the body of a response with the status 200. A body that breaks off is
// requested again; one that arrives more slowly than Options.Pace is not, and is Unavailable. Broken bodies are a
// BrokenError, and larger ones than limit, in bytes, are Unavailable.
func (c *Client) Document(ctx context.Context, q Request, limit int64) (Document, error) {
	var body []byte
	res, err := c.retried(ctx, q, func(ctx context.Context) (*http.Response, error) { //nolint:bodyclose // ReadAll and drain close it
		body = nil
		ctx, meter := c.options.Pace.Start(ctx)
		defer meter.Stop()
		res, err := c.once(ctx, q)
		if err != nil {
			return nil, err
		}
		if res.StatusCode != http.StatusOK {
			drain(res) // before its context ends
			return res, nil
		}
		body, err = ReadAll(res, meter.Reader(res.Body), limit)
		return res, err
	})
	if err != nil {
		return Document{}, err
	}
	return Document{res.StatusCode, res.Request.URL, res.Header, body}, nil
}

// ReadAll reads the body of a response through from, to its end, and closes it. It returns a BrokenError if reading
// fails, and an Unavailable error if there are more bytes than limit.
func ReadAll(res *http.Response, from io.Reader, limit int64) ([]byte, error) {
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(from, limit+1))
	switch {
	case err != nil:
		return nil, &BrokenError{err}
	case int64(len(b)) > limit:
		return nil, fault.New(fault.Unavailable, "The remote's answer is larger than %d bytes, url='%s'",
			limit, PlainURL(res.Request.URL))
	}
	return b, nil
}

// BrokenError says that a body ended before its end.
type BrokenError struct{ Err error }

// Error returns the text of the cause.
func (e *BrokenError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *BrokenError) Unwrap() error { return e.Err }
