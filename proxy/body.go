package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
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

// body returns the request's body, under a deadline that moves on with every piece that arrives.
func (c *call) body() *idleReader {
	return &idleReader{r: c.r.Body, c: http.NewResponseController(c.w), idle: c.ReadIdle, left: c.r.ContentLength}
}

// limitWait sets a deadline for a body that nobody may come to read: the server reads what a refusal leaves of it.
func (c *call) limitWait() {
	if c.r.ContentLength != 0 {
		_ = http.NewResponseController(c.w).SetReadDeadline(time.Now().Add(c.ReadIdle)) // or the connection has none, as in tests
	}
}

type idleReader struct {
	r      io.Reader
	c      *http.ResponseController
	idle   time.Duration
	due    time.Time
	left   int64 // bytes to come, as the client says; -1: it does not
	failed error // what ended the body before its end: the client's fault, not the storage's
}

// Read implements io.Reader. Setting a deadline costs a system call, so it is moved once a fraction of it has passed.
func (i *idleReader) Read(p []byte) (int, error) {
	if now := time.Now(); i.due.Sub(now) < i.idle*3/4 {
		i.due = now.Add(i.idle)
		if err := i.c.SetReadDeadline(i.due); err != nil && !errors.Is(err, http.ErrNotSupported) {
			i.failed = err
			return 0, err
		}
	}
	n, err := i.r.Read(p)
	if i.left >= 0 {
		i.left = max(0, i.left-int64(n))
	}
	switch {
	case errors.Is(err, io.EOF):
		_ = i.c.SetReadDeadline(time.Time{}) // what follows the body takes its own time
	case err != nil:
		i.failed = err
	}
	return n, err
}

// Left implements storage.Counted.
func (i *idleReader) Left() int64 { return i.left }

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
