package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
)

// writeBody sends a response with a body, except for HEAD. It ignores errors of the connection.
func (c *call) writeBody(status int, contentType string, b []byte) {
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		_, _ = c.w.Write(b)
	}
}

// writeEmpty sends a response without a body.
func (c *call) writeEmpty(status int) {
	if status != http.StatusNoContent {
		c.w.Header().Set("Content-Length", "0")
	}
	c.w.WriteHeader(status)
}

// readAll returns the request's body, or tooLarge if it is longer than limit bytes. If the Content-Length exceeds the
// limit it reads nothing.
func (c *call) readAll(limit int64, tooLarge *failure) ([]byte, error) {
	if c.r.ContentLength > limit {
		return nil, tooLarge
	}
	b, err := io.ReadAll(io.LimitReader(c.body(), limit+1))
	if err != nil {
		return nil, c.incompleteBody(err)
	}
	if int64(len(b)) > limit {
		return nil, tooLarge
	}
	return b, nil
}

// incompleteBody returns the failure for a body that could not be read to its end. The server cancels the request's
// context after every failed read, as if the client had disconnected. A client that was too slow is still connected:
// incompleteBody removes the cancellation so that it gets the response.
func (c *call) incompleteBody(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.r = c.r.WithContext(context.WithoutCancel(c.r.Context()))
	}
	var code string
	switch c.kind {
	case routeManifest:
		code = "MANIFEST_INVALID"
	case routeSignatures:
		code = "SIGNATURE_INVALID"
	default:
		code = "BLOB_UPLOAD_INVALID"
	}
	return errors.Join(newError(http.StatusBadRequest, code, "The request body is incomplete.", nil), err)
}

// body returns the request's body. Reads fail if the client is too slow: see internal/pace.
func (c *call) body() *bodyReader {
	return &bodyReader{r: c.r.Body, left: c.r.ContentLength}
}

// bodyReader reads a request's body. It distinguishes errors of the client from those of the storage that consumes it.
type bodyReader struct {
	r      io.Reader
	left   int64 // remaining bytes according to the Content-Length; -1 if unknown
	failed error // the read error that ended the body early
}

// Read implements io.Reader.
func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left >= 0 {
		b.left = max(0, b.left-int64(n))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.failed = err
	}
	return n, err
}

// Left implements storage.Counted.
func (b *bodyReader) Left() int64 { return b.left }

// exactReader reads a body of unknown length that must have exactly left bytes. It fails if the body has fewer or more.
type exactReader struct {
	r    io.Reader
	left int64
}

var errContentRangeLength = errors.New("the body is not as long as its Content-Range")

// Read implements io.Reader.
func (e *exactReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if e.left == 0 {
		var more [1]byte
		if n, err := io.ReadFull(e.r, more[:]); n == 0 {
			return 0, err
		}
		return 0, errContentRangeLength
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	if errors.Is(err, io.EOF) && e.left > 0 {
		err = errContentRangeLength
	}
	return n, err
}
