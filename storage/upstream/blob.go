package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/storage"
)

// Stat implements storage.Storage.
func (s *Storage) Stat(ctx context.Context, name string, dgst digest.Digest) (int64, error) {
	res, err := s.do(ctx, request{method: http.MethodHead, name: name, path: "/blobs/" + string(dgst)})
	if err != nil {
		return 0, err
	}
	drain(res)
	switch {
	case res.StatusCode == http.StatusNotFound:
		return 0, storage.ErrNotFound
	case res.StatusCode != http.StatusOK:
		return 0, refused("HEAD of a blob", res, nil)
	case res.ContentLength < 0:
		return 0, outage(errors.New("HEAD of a blob says no length"))
	}
	return res.ContentLength, nil
}

// Open implements storage.Storage. The bytes are requested as they are read; reading elsewhere after a Seek requests
// a range.
func (s *Storage) Open(ctx context.Context, name string, dgst digest.Digest) (io.ReadSeekCloser, int64, error) {
	res, err := s.fetch(ctx, name, dgst, storage.Part{Last: -1}, false)
	if err != nil {
		return nil, 0, err
	}
	if res.ContentLength < 0 {
		_ = res.Body.Close()
		return nil, 0, outage(errors.New("GET of a blob says no length"))
	}
	return s.reader(ctx, name, dgst, res.ContentLength, res.Body, 0), res.ContentLength, nil
}

// OpenPart opens a blob of which a part is to be read, and requests only that part. The reader can read other parts
// too, as that of Open. part.Size need not be the upstream's size of the blob: it counts if the upstream's response
// has none.
func (s *Storage) OpenPart(ctx context.Context, name string, dgst digest.Digest, part storage.Part) (io.ReadSeekCloser, error) {
	_, content, err := s.openPart(ctx, name, dgst, part, false)
	return content, err
}

// Locate does the same as OpenPart, unless the upstream redirects to another host: then it returns that URL and no
// content. Clients can get the bytes there without credentials for as long as the upstream permits. Redirects within
// the upstream's host, to a URL with a user, or from https to http are followed here.
func (s *Storage) Locate(
	ctx context.Context, name string, dgst digest.Digest, part storage.Part,
) (at string, content io.ReadSeekCloser, err error) {
	return s.openPart(ctx, name, dgst, part, true)
}

func (s *Storage) openPart(
	ctx context.Context, name string, dgst digest.Digest, part storage.Part, passThrough bool,
) (string, io.ReadSeekCloser, error) {
	res, err := s.fetch(ctx, name, dgst, part, passThrough)
	if err != nil {
		return "", nil, err
	}
	if to, err := res.Location(); err == nil && res.StatusCode >= 300 {
		drain(res)
		return to.String(), nil, nil
	}
	size := part.Size
	if res.StatusCode == http.StatusOK && res.ContentLength >= 0 {
		size = res.ContentLength
	}
	body, err := skip(res, part.First)
	if err != nil {
		return "", nil, err
	}
	return "", s.reader(ctx, name, dgst, size, body, part.First), nil
}

// reader returns a reader of a blob whose body is open at a position.
func (s *Storage) reader(
	ctx context.Context, name string, dgst digest.Digest, size int64, body io.ReadCloser, at int64,
) io.ReadSeekCloser {
	return storage.NewReader(size, func(at int64) (io.ReadCloser, error) {
		res, err := s.fetch(ctx, name, dgst, storage.Part{Size: size, First: at, Last: size - 1}, false)
		if err != nil {
			return nil, err
		}
		return skip(res, at)
	}, body, at)
}

// fetch requests a part of a blob and returns the response: 200, 206 for a part, or, with passThrough, a redirect
// that clients can follow.
func (s *Storage) fetch(
	ctx context.Context, name string, dgst digest.Digest, part storage.Part, passThrough bool,
) (*http.Response, error) {
	q := request{method: http.MethodGet, name: name, path: "/blobs/" + string(dgst), passThrough: passThrough}
	if !part.Whole() { // some registries do not support a range without an end
		q.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", part.First, part.Last)}}
	}
	res, err := s.do(ctx, q)
	if err != nil {
		return nil, err
	}
	switch res.StatusCode {
	case http.StatusOK:
		return res, nil
	case http.StatusPartialContent:
		from := fmt.Sprintf("bytes %d-", part.First)
		if got := res.Header.Get("Content-Range"); !part.Whole() && (got == "" || strings.HasPrefix(got, from)) {
			return res, nil
		}
		_ = res.Body.Close()
		return nil, outage(errors.New("it sends another part of a blob than the requested one"))
	case http.StatusNotFound:
		drain(res)
		return nil, storage.ErrNotFound
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		if _, err := res.Location(); passThrough && err == nil {
			return res, nil
		}
	}
	defer drain(res)
	return nil, refused("a blob", res, res.Body)
}

// skip returns the body of a response from a position of the blob on. An upstream without ranges sends the bytes
// before it too.
func skip(res *http.Response, at int64) (io.ReadCloser, error) {
	if res.StatusCode == http.StatusOK {
		if _, err := io.CopyN(io.Discard, res.Body, at); err != nil {
			_ = res.Body.Close()
			return nil, outage(err)
		}
	}
	return res.Body, nil
}

// Mount implements storage.Storage. It copies the blob if the upstream does not mount it.
func (s *Storage) Mount(ctx context.Context, from, name string, dgst digest.Digest) error {
	res, err := s.do(ctx, request{method: http.MethodPost, name: name, path: "/blobs/uploads/", from: from, mount: dgst})
	if err != nil {
		return err
	}
	defer drain(res)
	switch res.StatusCode {
	case http.StatusCreated:
		return nil
	case http.StatusAccepted:
		location, err := s.location(res)
		if err != nil {
			return err
		}
		to := &upload{storage: s, name: name, at: location, hash: digest.SHA256.Hash()}
		if _, err := s.Stat(ctx, name, dgst); !errors.Is(err, storage.ErrNotFound) { // it exists already
			return errors.Join(err, to.Cancel(ctx))
		}
		return s.copyBlob(ctx, from, to, dgst)
	}
	return refused("mount of a blob", res, res.Body)
}

// copyBlob copies a blob to another name through this process.
func (s *Storage) copyBlob(ctx context.Context, from string, to *upload, dgst digest.Digest) error {
	content, _, err := s.Open(ctx, from, dgst)
	if err != nil {
		return errors.Join(err, to.Cancel(ctx))
	}
	defer func() { _ = content.Close() }()
	if _, err := to.ReadFrom(content); err != nil {
		return errors.Join(err, to.Cancel(ctx))
	}
	return to.Commit(ctx, dgst)
}

// Delete implements storage.Storage.
func (s *Storage) Delete(ctx context.Context, name string, dgst digest.Digest) error {
	return s.delete(ctx, name, "/blobs/"+string(dgst))
}

func (s *Storage) delete(ctx context.Context, name, path string) error {
	res, err := s.do(ctx, request{method: http.MethodDelete, name: name, path: path})
	if err != nil {
		return err
	}
	defer drain(res)
	switch res.StatusCode {
	case http.StatusAccepted, http.StatusOK, http.StatusNoContent, http.StatusNotFound:
		return nil
	case http.StatusMethodNotAllowed, http.StatusBadRequest:
		return storage.ErrUnsupported
	}
	return refused("delete", res, res.Body)
}
