package embedded

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/storage"
)

// copyBuffer is how many bytes are moved at a time.
const copyBuffer = 1 << 20

// upload is a blob on its way in. Between calls all its bytes are with the driver, which knows no flush but Close; so no
// writer stays open, only the running hash.
type upload struct {
	storage *Storage
	path    string
	size    int64
	began   bool      // the driver has an object for it
	hash    hash.Hash // sha256 of all bytes so far; nil when it has not seen them all
	ended   bool
}

var _ storage.Upload = (*upload)(nil)

func (s *Storage) newUpload(p string) *upload {
	return &upload{storage: s, path: p, hash: digest.SHA256.Hash()}
}

// ReadFrom implements storage.Upload.
func (u *upload) ReadFrom(r io.Reader) (n int64, err error) {
	ctx := context.Background() //nolint:forbidigo // io.ReaderFrom carries none; r ends with its request
	w, err := u.storage.driver.Writer(ctx, u.path, u.began)
	if err != nil {
		return 0, fmt.Errorf("write upload: %w", err)
	}
	u.began = true
	var to io.Writer = w
	if u.hash != nil {
		to = io.MultiWriter(w, u.hash)
	}
	// onlyWriter and onlyReader keep io.CopyBuffer from choosing a smaller buffer of its own.
	n, err = io.CopyBuffer(onlyWriter{to}, onlyReader{r}, make([]byte, copyBuffer))
	u.size += n
	if closeErr := w.Close(); closeErr != nil {
		u.hash = nil // what arrived is not known
		return n, errors.Join(err, fmt.Errorf("write upload: %w", closeErr))
	}
	return n, err
}

type onlyWriter struct{ io.Writer }

type onlyReader struct{ io.Reader }

// Close implements storage.Upload: nothing is held between calls.
func (*upload) Close() error { return nil }

// Ref implements storage.Upload.
func (u *upload) Ref() string { return path.Base(u.path) }

// Size implements storage.Upload.
func (u *upload) Size() int64 { return u.size }

// Commit implements storage.Upload.
func (u *upload) Commit(ctx context.Context, dgst digest.Digest) error {
	to, err := blobPath(dgst)
	if err != nil {
		return err
	}
	if u.ended {
		return storage.ErrNotFound
	}
	if err := u.finish(ctx); err != nil {
		return err
	}
	actual, err := u.digest(ctx, dgst.Algorithm())
	if err != nil {
		return err
	}
	if actual != dgst {
		return errors.Join(storage.ErrDigest, u.Cancel(ctx))
	}
	if err := u.storage.move(ctx, u.path, to); err != nil {
		return fmt.Errorf("keep blob %s: %w", dgst, err)
	}
	u.ended = true
	return nil
}

// finish has the driver complete what was written: an object store assembles it, a file is synced.
func (u *upload) finish(ctx context.Context) error {
	w, err := u.storage.driver.Writer(ctx, u.path, u.began)
	if err != nil {
		return fmt.Errorf("end upload: %w", err)
	}
	u.began = true
	return errors.Join(w.Commit(ctx), w.Close())
}

// digest returns the digest of all bytes, reading them again where the running hash does not know it.
func (u *upload) digest(ctx context.Context, algorithm digest.Algorithm) (digest.Digest, error) {
	if algorithm == digest.SHA256 && u.hash != nil {
		return digest.NewDigest(digest.SHA256, u.hash), nil
	}
	r, err := u.storage.driver.Reader(ctx, u.path, 0)
	if err != nil {
		return "", missing(err)
	}
	h := algorithm.Hash()
	_, err = io.CopyBuffer(onlyWriter{h}, onlyReader{r}, make([]byte, copyBuffer))
	return digest.NewDigest(algorithm, h), errors.Join(err, r.Close())
}

// Cancel implements storage.Upload.
func (u *upload) Cancel(ctx context.Context) error {
	if u.ended {
		return nil
	}
	u.ended = true
	err := u.storage.driver.Delete(ctx, u.path)
	if _, gone := errors.AsType[driver.PathNotFoundError](err); gone {
		return nil
	}
	return err
}

// move brings a finished upload to its blob's place, durably. The filesystem driver renames and leaves the directories to the
// operating system; after a power cut the name could be gone, so they are synced here.
func (s *Storage) move(ctx context.Context, from, to string) error {
	if s.root == "" {
		return s.driver.Move(ctx, from, to)
	}
	target := filepath.Join(s.root, to)
	dir := filepath.Dir(target)             // <hex>/
	_, err := os.Stat(filepath.Dir(dir))    // <2 hex>/
	fresh := errors.Is(err, os.ErrNotExist) // its own name must be kept too
	if err := s.driver.Move(ctx, from, to); err != nil {
		return err
	}
	changed := []string{dir, filepath.Dir(dir)}
	if fresh {
		changed = append(changed, filepath.Dir(filepath.Dir(dir)), filepath.Join(s.root, blobRoot))
	}
	for _, d := range changed {
		if err := syncDir(d); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
