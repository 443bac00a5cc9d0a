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

// upload is an upload session of the upstream.
type upload struct {
	storage *Storage
	name    string
	at      *url.URL // where the session is; the upstream may move it with every request
	size    int64
	hash    hash.Hash // sha256 of all bytes so far; nil when it has not seen them all
	broken  bool      // a chunk was cut short: what the upstream holds is not known
	ended   bool
}

var _ storage.Upload = (*upload)(nil)

// Create implements storage.Storage.
func (s *Storage) Create(ctx context.Context, name string) (storage.Upload, error) {
	res, err := s.do(ctx, request{method: http.MethodPost, name: name, path: "/blobs/uploads/"})
	if err != nil {
		return nil, err
	}
	defer registryclient.Drain(res)
	if res.StatusCode != http.StatusAccepted {
		return nil, refused("an upload", res, res.Body)
	}
	at, err := s.location(res)
	if err != nil {
		return nil, err
	}
	return &upload{storage: s, name: name, at: at, hash: digest.SHA256.Hash()}, nil
}

// location returns where an answer says that an upload is. It must be on the upstream itself: our credentials go there.
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

// Resume implements storage.Storage. The upstream cannot drop bytes, so that an upload with more than offset is as good as gone.
func (s *Storage) Resume(ctx context.Context, name, ref string, offset int64) (storage.Upload, error) {
	at, err := s.base.Parse(ref)
	if err != nil || !registryclient.SameHost(at, s.base) {
		return nil, storage.ErrNotFound
	}
	res, err := s.do(ctx, request{method: http.MethodGet, name: name, at: at, push: true})
	if err != nil {
		return nil, err
	}
	defer registryclient.Drain(res)
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

// holds says whether an upload's Range is that of so many bytes. Registries write an empty one as `0-0`, `0--1` or not at all.
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

// ReadFrom implements storage.Upload: one PATCH that streams. What a PATCH that was cut short has left there is not known, so that the
// upload is lost with it.
func (u *upload) ReadFrom(r io.Reader) (int64, error) {
	if u.broken {
		return 0, storage.ErrNotFound
	}
	from := newSource(r, u.hash)
	at, err := u.patch(from)
	n, whole, failure := from.end()
	switch {
	case failure != nil: // the client's side broke, not the upstream
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

// patch sends a chunk and returns where the upload is then.
func (u *upload) patch(from *source) (*url.URL, error) {
	ctx := context.Background() //nolint:forbidigo // io.ReaderFrom carries none; its reader ends with its request
	res, err := u.storage.do(ctx, request{
		method: http.MethodPatch, name: u.name, at: u.at, stream: from, push: true,
		header: http.Header{"Content-Type": {"application/octet-stream"}},
	})
	if err != nil {
		return nil, err
	}
	defer registryclient.Drain(res)
	switch res.StatusCode {
	case http.StatusAccepted, http.StatusNoContent:
		return u.storage.location(res)
	case http.StatusNotFound:
		return nil, storage.ErrNotFound
	}
	return nil, refused("a chunk", res, res.Body)
}

// Close implements storage.Upload: nothing is held between calls.
func (*upload) Close() error { return nil }

// Ref implements storage.Upload.
func (u *upload) Ref() string { return u.at.RequestURI() }

// Size implements storage.Upload.
func (u *upload) Size() int64 { return u.size }

// Commit implements storage.Upload. The upstream checks the digest; so do we, as far as we have seen the bytes.
func (u *upload) Commit(ctx context.Context, dgst digest.Digest) error {
	if u.ended {
		return storage.ErrNotFound
	}
	if u.hash != nil && dgst.Algorithm() == digest.SHA256 && digest.NewDigest(digest.SHA256, u.hash) != dgst {
		return errors.Join(storage.ErrDigest, u.Cancel(ctx))
	}
	return u.put(ctx, u.under(dgst), nil, dgst)
}

// Finish implements storage.Finisher: a blob that comes all at once is one PUT.
func (u *upload) Finish(ctx context.Context, r io.Reader, dgst digest.Digest) error {
	if u.size != 0 || u.broken || u.ended {
		if _, err := u.ReadFrom(r); err != nil {
			return err
		}
		return u.Commit(ctx, dgst)
	}
	from := newSource(r, digest.SHA256.Hash())
	err := u.put(ctx, u.under(dgst), from, dgst)
	n, whole, failure := from.end()
	switch {
	case failure != nil: // the client's side broke, not the upstream
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

// under is where the upload is committed under a digest.
func (u *upload) under(dgst digest.Digest) *url.URL {
	at := *u.at
	q := at.Query()
	q.Set("digest", string(dgst))
	at.RawQuery = q.Encode()
	return &at
}

// put commits the upload, with the last bytes unless they are nil.
func (u *upload) put(ctx context.Context, at *url.URL, last *source, dgst digest.Digest) error {
	res, err := u.storage.do(ctx, request{
		method: http.MethodPut, name: u.name, at: at, stream: last, push: true, header: http.Header{"Content-Type": {"application/octet-stream"}},
	})
	if err != nil {
		return err
	}
	defer registryclient.Drain(res)
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

// confirm sees that the upstream keeps a blob under the digest that was asked for: distribution takes a sha512 and keeps the blob under its
// sha256 alone.
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
	registryclient.Drain(res)
	return nil // an upstream that does not cancel forgets uploads in time
}
