package proxy

import (
	"errors"
	"io"
	"net/http"
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
		return nil, cutShort(err)
	}
	if int64(len(b)) > limit {
		return nil, tooLarge
	}
	return b, nil
}

// cutShort is the answer to a body that ended too early or too slowly.
func cutShort(err error) error {
	return errors.Join(newError(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "The request's body could not be read to its end.", nil), err)
}

// body returns the request's body, under a deadline that moves on with every piece that arrives.
func (c *call) body() io.Reader {
	return &idleReader{r: c.r.Body, c: http.NewResponseController(c.w), idle: c.ReadIdle}
}

type idleReader struct {
	r    io.Reader
	c    *http.ResponseController
	idle time.Duration
	due  time.Time
}

// Read implements io.Reader. Setting a deadline costs a system call, so it is moved once a fraction of it has passed.
func (i *idleReader) Read(p []byte) (int, error) {
	if now := time.Now(); i.due.Sub(now) < i.idle*3/4 {
		i.due = now.Add(i.idle)
		if err := i.c.SetReadDeadline(i.due); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return 0, err
		}
	}
	n, err := i.r.Read(p)
	if err != nil {
		_ = i.c.SetReadDeadline(time.Time{}) // what follows the body takes its own time
	}
	return n, err
}
