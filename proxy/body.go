package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
)

// write answers with bytes. What the client no longer reads is nobody's error.
func (c *call) write(status int, contentType string, b []byte) {
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		_, _ = c.w.Write(b)
	}
}

// empty answers without a body.
func (c *call) empty(status int) {
	if status != http.StatusNoContent {
		c.w.Header().Set("Content-Length", "0")
	}
	c.w.WriteHeader(status)
}

// readAll returns the request's body, of at most so many bytes. A longer one is refused as soon as that is known.
func (c *call) readAll(limit int64, tooLarge *failure) ([]byte, error) {
	if c.r.ContentLength > limit {
		return nil, tooLarge
	}
	b, err := io.ReadAll(io.LimitReader(c.body(), limit+1))
	if err != nil {
		return nil, c.cutShort(err)
	}
	if int64(len(b)) > limit {
		return nil, tooLarge
	}
	return b, nil
}

// cutShort is the answer to a body that ended too early or too slowly. With any read that fails the server ends the request's context, as if the
// client were gone; one that was too slow is still there, and is told.
func (c *call) cutShort(err error) error {
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
	return errors.Join(newError(http.StatusBadRequest, code, "The request's body could not be read to its end.", nil), err)
}

// body returns the request's body. internal/pace fails its reads when the client is too slow.
func (c *call) body() *bodyReader {
	return &bodyReader{r: c.r.Body, left: c.r.ContentLength}
}

// bodyReader is a request's body, which knows how much is to come and whether the client failed to send it.
type bodyReader struct {
	r      io.Reader
	left   int64 // bytes to come, as the client says; -1: it does not
	failed error // what ended the body before its end: the client's fault, not the storage's
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

// exactly gives so many bytes of a body that does not say its own length, and fails where it has fewer or more.
type exactly struct {
	r    io.Reader
	left int64
}

var errOtherLength = errors.New("the body is not as long as its Content-Range")

// Read implements io.Reader.
func (e *exactly) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if e.left == 0 {
		var more [1]byte
		if n, err := io.ReadFull(e.r, more[:]); n == 0 {
			return 0, err
		}
		return 0, errOtherLength
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	if errors.Is(err, io.EOF) && e.left > 0 {
		err = errOtherLength
	}
	return n, err
}
