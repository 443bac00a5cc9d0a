package observed

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/storage"
)

// upload implements storage.Upload.
type upload struct {
	storage.Upload
	w *wrapper
}

// finisher is an upload that also implements storage.Finisher.
type finisher struct {
	upload
	next storage.Finisher
}

// upload wraps an upload unless err is set.
func (w *wrapper) upload(u storage.Upload, err error) (storage.Upload, error) {
	if err != nil {
		return nil, err
	}
	wrapped := upload{u, w}
	if next, ok := u.(storage.Finisher); ok {
		return &finisher{wrapped, next}, nil
	}
	return &wrapped, nil
}

// ReadFrom implements io.ReaderFrom. An upload may outlive the request that opened it, so the write has no context.
func (u *upload) ReadFrom(r io.Reader) (int64, error) {
	s, o := &source{Reader: r}, operation{name: opWrite, began: time.Now(), report: u.w.report}
	n, err := u.Upload.ReadFrom(s)
	s.end(o, err)
	return n, err
}

// Commit implements storage.Upload.
func (u *upload) Commit(ctx context.Context, dgst digest.Digest) error {
	o := u.w.begin(ctx, opCommit)
	err := u.Upload.Commit(ctx, dgst)
	o.end(err)
	return err
}

// Cancel implements storage.Upload.
func (u *upload) Cancel(ctx context.Context) error {
	o := u.w.begin(ctx, opCancel)
	err := u.Upload.Cancel(ctx)
	o.end(err)
	return err
}

// Finish implements storage.Finisher. It is reported as a write.
func (f *finisher) Finish(ctx context.Context, r io.Reader, dgst digest.Digest) error {
	s, o := &source{Reader: r}, f.w.begin(ctx, opWrite)
	err := f.next.Finish(ctx, s, dgst)
	s.end(o, err)
	return err
}

// source is the reader of a write. It measures the time in which the client sends the bytes.
type source struct {
	io.Reader
	waited time.Duration
	failed bool
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	began := time.Now()
	n, err := s.Reader.Read(p)
	s.waited += time.Since(began)
	s.failed = s.failed || err != nil && err != io.EOF
	return n, err
}

// Left implements storage.Counted.
func (s *source) Left() int64 {
	if c, ok := s.Reader.(storage.Counted); ok {
		return c.Left()
	}
	return -1
}

// end reports a write, unless the client broke it off.
func (s *source) end(o operation, err error) {
	if s.failed {
		return
	}
	o.began = o.began.Add(s.waited)
	o.end(err)
}
