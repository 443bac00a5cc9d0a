package upstream

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/registryclient"
	"github.com/countersign/countersign/storage"
)

// upload is an upload session at the upstream.
type upload struct {
	storage *Storage
	name    string
	at      *url.URL // of the session; the upstream may change it with every request
	size    int64
	hash    hash.Hash // sha256 of all bytes so far; nil if this process has not sent all of them
	broken  bool      // a chunk failed, so that the bytes at the upstream are not known
	ended   bool
}

var _ storage.Upload = (*upload)(nil)

// Create implements storage.Storage.
func (s *Storage) Create(ctx context.Context, name string) (storage.Upload, error) {
	res, err := s.do(ctx, request{method: http.MethodPost, name: name, path: "/blobs/uploads/"})
	if err != nil {
		return nil, err
	}
	defer drain(res)
	if res.StatusCode != http.StatusAccepted {
		return nil, refused("an upload", res, res.Body)
	}
	at, err := s.location(res)
	if err != nil {
		return nil, err
	}
	return &upload{storage: s, name: name, at: at, hash: digest.SHA256.Hash()}, nil
}

// location returns the URL of an upload session from a response. It returns an outage unless the URL is on the
// upstream itself: the credentials go there.
func (s *Storage) location(res *http.Response) (*url.URL, error) {
	at, err := s.base.Parse(res.Header.Get("Location"))
	if err != nil || res.Header.Get("Location") == "" {
		return nil, outage(errors.New("the upload has no location"))
	}
	if !registryclient.SameHost(at, s.base) {
		return nil, outage(fmt.Errorf("the upload's location is on another host, %s", at.Host))
	}
	return at, nil
}

// Resume implements storage.Storage. It returns ErrNotFound for an upload with more bytes than offset too, because an
// upstream cannot remove bytes.
func (s *Storage) Resume(ctx context.Context, name, ref string, offset int64) (storage.Upload, error) {
	at, err := s.base.Parse(ref)
	if err != nil || !registryclient.SameHost(at, s.base) {
		return nil, storage.ErrNotFound
	}
	res, err := s.do(ctx, request{method: http.MethodGet, name: name, at: at, push: true})
	if err != nil {
		return nil, err
	}
	defer drain(res)
	if res.StatusCode != http.StatusNoContent {
		if res.StatusCode == http.StatusNotFound {
			return nil, storage.ErrNotFound
		}
		return nil, refused("an upload", res, res.Body)
	}
	if !holds(res.Header.Get("Range"), offset) {
		return nil, storage.ErrNotFound
	}
	u := &upload{storage: s, name: name, at: at, size: offset}
	if offset == 0 {
		u.hash = digest.SHA256.Hash()
	}
	if res.Header.Get("Location") != "" {
		if u.at, err = s.location(res); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// holds reports whether the Range header of an upload says that it has size bytes. Registries write an empty upload
// as 0-0, as 0--1, or without a header.
func holds(text string, size int64) bool {
	first, last, ok := strings.Cut(strings.TrimPrefix(text, "bytes="), "-")
	if !ok || first != "0" {
		return text == "" && size == 0
	}
	end, err := strconv.ParseInt(last, 10, 64)
	if err != nil {
		return false
	}
	return end+1 == size || size == 0 && end <= 0
}

// ReadFrom implements storage.Upload with one streaming PATCH. After a failed PATCH the bytes at the upstream are not
// known, so that the upload is lost.
func (u *upload) ReadFrom(r io.Reader) (int64, error) {
	if u.broken {
		return 0, storage.ErrNotFound
	}
	from := newSource(r, u.hash)
	at, err := u.patch(from)
	n, whole, failure := from.end()
	switch {
	case failure != nil: // the client failed, not the upstream
		err = failure
	case err == nil && !whole:
		err = outage(errors.New("it took a chunk before it had all of it"))
	}
	if err != nil {
		u.hash, u.broken = nil, true
		return 0, err
	}
	u.at = at
	u.size += n
	return n, nil
}

// patch sends a chunk and returns the new URL of the session.
func (u *upload) patch(from *source) (*url.URL, error) {
	ctx := context.Background() //nolint:forbidigo // io.ReaderFrom has no context; its reader ends with its request
	res, err := u.storage.do(ctx, request{
		method: http.MethodPatch, name: u.name, at: u.at, stream: from, push: true,
		header: http.Header{"Content-Type": {"application/octet-stream"}},
	})
	if err != nil {
		return nil, err
	}
	defer drain(res)
	switch res.StatusCode {
	case http.StatusAccepted, http.StatusNoContent:
		return u.storage.location(res)
	case http.StatusNotFound:
		return nil, storage.ErrNotFound
	}
	return nil, refused("a chunk", res, res.Body)
}

// Close implements storage.Upload. It has no effect: no connection is open between calls.
func (*upload) Close() error { return nil }

// Ref implements storage.Upload.
func (u *upload) Ref() string { return u.at.RequestURI() }

// Size implements storage.Upload.
func (u *upload) Size() int64 { return u.size }

// Commit implements storage.Upload. The upstream verifies the digest, and so does this process if it has sent all
// bytes.
func (u *upload) Commit(ctx context.Context, dgst digest.Digest) error {
	if u.ended {
		return storage.ErrNotFound
	}
	if u.hash != nil && dgst.Algorithm() == digest.SHA256 && digest.NewDigest(digest.SHA256, u.hash) != dgst {
		return errors.Join(storage.ErrDigest, u.Cancel(ctx))
	}
	return u.put(ctx, u.commitURL(dgst), nil, dgst)
}

// Finish implements storage.Finisher. A blob whose bytes all come at once is one PUT.
func (u *upload) Finish(ctx context.Context, r io.Reader, dgst digest.Digest) error {
	if u.size != 0 || u.broken || u.ended {
		if _, err := u.ReadFrom(r); err != nil {
			return err
		}
		return u.Commit(ctx, dgst)
	}
	from := newSource(r, digest.SHA256.Hash())
	err := u.put(ctx, u.commitURL(dgst), from, dgst)
	n, whole, failure := from.end()
	switch {
	case failure != nil: // the client failed, not the upstream
		err = failure
	case err == nil && (!whole || dgst.Algorithm() == digest.SHA256 && digest.NewDigest(digest.SHA256, from.hash) != dgst):
		err = outage(errors.New("it took other bytes than it was sent"))
	}
	if err != nil {
		u.hash, u.broken = nil, true
		return err
	}
	u.size = n
	return nil
}

// commitURL returns the URL that commits the upload under a digest.
func (u *upload) commitURL(dgst digest.Digest) *url.URL {
	at := *u.at
	q := at.Query()
	q.Set("digest", string(dgst))
	at.RawQuery = q.Encode()
	return &at
}

// put commits the upload. It sends the last bytes unless last is nil.
func (u *upload) put(ctx context.Context, at *url.URL, last *source, dgst digest.Digest) error {
	res, err := u.storage.do(ctx, request{
		method: http.MethodPut, name: u.name, at: at, stream: last, push: true,
		header: http.Header{"Content-Type": {"application/octet-stream"}},
	})
	if err != nil {
		return err
	}
	defer drain(res)
	switch {
	case res.StatusCode == http.StatusCreated:
		u.ended = true
		return u.confirm(ctx, res, dgst)
	case res.StatusCode == http.StatusNotFound:
		return storage.ErrNotFound
	case res.StatusCode == http.StatusBadRequest:
		code, _ := reason(res.Body)
		switch {
		case dgst.Algorithm() != digest.SHA256 && code != "DIGEST_INVALID":
			return errors.Join(storage.ErrUnsupported, u.Cancel(ctx))
		case code == "DIGEST_INVALID" || code == "":
			return errors.Join(storage.ErrDigest, u.Cancel(ctx))
		}
		return errors.Join(fault.New(fault.Invalid, "The upstream registry refuses a blob: %s.", code), u.Cancel(ctx))
	}
	return refused("a blob", res, res.Body)
}

// confirm checks that the upstream stores a blob under the requested digest. distribution accepts a sha512 digest and
// stores the blob only under its sha256 digest.
func (u *upload) confirm(ctx context.Context, res *http.Response, dgst digest.Digest) error {
	if kept := res.Header.Get("Docker-Content-Digest"); kept == "" || kept == string(dgst) {
		return nil
	}
	_, err := u.storage.Stat(ctx, u.name, dgst)
	if errors.Is(err, storage.ErrNotFound) {
		return storage.ErrUnsupported
	}
	return err
}

// Cancel implements storage.Upload.
func (u *upload) Cancel(ctx context.Context) error {
	if u.ended {
		return nil
	}
	u.ended = true
	res, err := u.storage.do(ctx, request{method: http.MethodDelete, name: u.name, at: u.at})
	if err != nil {
		return err
	}
	drain(res)
	return nil // an upstream that does not cancel uploads expires them
}
