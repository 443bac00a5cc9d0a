package storage

import (
	"errors"
	"io"
)

// NewReader returns a reader of a blob of size bytes. open returns the bytes from a position on; the reader calls it
// for the first read, and for a read at another position after a Seek. body, unless it is nil, is open already at the
// position at.
func NewReader(size int64, open func(at int64) (io.ReadCloser, error), body io.ReadCloser, at int64) io.ReadSeekCloser {
	return &reader{size: size, open: open, body: body, bodyAt: at}
}

type reader struct {
	open   func(at int64) (io.ReadCloser, error)
	size   int64
	at     int64
	body   io.ReadCloser // nil until the next read
	bodyAt int64         // position of body
}

// Read implements io.Reader. It returns io.ErrUnexpectedEOF if a body ends before the blob.
func (r *reader) Read(p []byte) (int, error) {
	if r.at >= r.size {
		return 0, io.EOF
	}
	if r.body != nil && r.bodyAt != r.at {
		if err := r.Close(); err != nil {
			return 0, err
		}
	}
	if r.body == nil {
		body, err := r.open(r.at)
		if err != nil {
			return 0, err
		}
		r.body, r.bodyAt = body, r.at
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.size-r.at)])
	r.at += int64(n)
	r.bodyAt = r.at
	if errors.Is(err, io.EOF) && r.at < r.size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Seek implements io.Seeker.
func (r *reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start of the blob")
	}
	r.at = offset
	return offset, nil
}

// Close implements io.Closer.
func (r *reader) Close() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	return err
}
