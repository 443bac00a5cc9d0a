// Package embedded keeps blobs through one of distribution's storage drivers: by default in files, each blob once.
//
// It uses the drivers and distribution's layout of blobs, and nothing above them: the database says who holds what, so the links and
// hash states that distribution's own blob store writes would only cost (two fsyncs each). distribution's garbage-collect
// must never run on this storage.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // registers the default driver
	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/storage"
)

// Where things lie below the driver's root: blobs where distribution has them.
const (
	blobRoot   = "/docker/registry/v2/blobs"
	uploadRoot = "/docker/registry/v2/uploads"
)

// Options name a storage driver of distribution and its parameters, as distribution's configuration has them.
type Options struct {
	Driver     string
	Parameters map[string]any
}

// Storage keeps blobs through a driver. It is safe for concurrent use.
type Storage struct {
	driver driver.StorageDriver
	// root is the directory of the filesystem driver, in which durability asks for more than the driver does; empty for other drivers.
	root string
}

var _ storage.Storage = (*Storage)(nil)

// New opens a storage driver. It fails where there is none of that name, or its parameters are wrong.
func New(ctx context.Context, o Options) (*Storage, error) {
	d, err := factory.Create(ctx, o.Driver, o.Parameters)
	if err != nil {
		return nil, fmt.Errorf("storage driver %s: %w", o.Driver, err)
	}
	s := &Storage{driver: d}
	if o.Driver == "filesystem" {
		s.root = fmt.Sprint(o.Parameters["rootdirectory"])
		if err := os.MkdirAll(filepath.Join(s.root, blobRoot), 0o700); err != nil {
			return nil, fmt.Errorf("storage directory: %w", err)
		}
	}
	return s, nil
}

// blobPath is where a blob lies. Only a well-formed digest has a place.
func blobPath(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("digest %q: %w", d, err)
	}
	hex := d.Encoded()
	return path.Join(blobRoot, d.Algorithm().String(), hex[:2], hex, "data"), nil
}

// missing turns the driver's word for "not there" into the storage's.
func missing(err error) error {
	if _, ok := errors.AsType[driver.PathNotFoundError](err); ok {
		return storage.ErrNotFound
	}
	return err
}

// Stat implements storage.Storage.
func (s *Storage) Stat(ctx context.Context, _ string, dgst digest.Digest) (int64, error) {
	p, err := blobPath(dgst)
	if err != nil {
		return 0, err
	}
	info, err := s.driver.Stat(ctx, p)
	if err != nil {
		return 0, missing(err)
	}
	return info.Size(), nil
}

// Open implements storage.Storage.
func (s *Storage) Open(ctx context.Context, _ string, dgst digest.Digest) (io.ReadSeekCloser, int64, error) {
	p, err := blobPath(dgst)
	if err != nil {
		return nil, 0, err
	}
	if s.root != "" {
		return openFile(filepath.Join(s.root, p))
	}
	info, err := s.driver.Stat(ctx, p)
	if err != nil {
		return nil, 0, missing(err)
	}
	open := func(at int64) (io.ReadCloser, error) {
		r, err := s.driver.Reader(ctx, p, at)
		return r, missing(err)
	}
	return storage.NewReader(info.Size(), open, nil, 0), info.Size(), nil
}

// openFile opens a blob as the file that it is, so that the kernel can send it.
func openFile(name string) (io.ReadSeekCloser, int64, error) {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, storage.ErrNotFound
	} else if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// Mount implements storage.Storage.
func (s *Storage) Mount(ctx context.Context, from, _ string, dgst digest.Digest) error {
	_, err := s.Stat(ctx, from, dgst)
	return err
}

// Delete implements storage.Storage.
func (s *Storage) Delete(ctx context.Context, _ string, dgst digest.Digest) error {
	p, err := blobPath(dgst)
	if err != nil {
		return err
	}
	if err := missing(s.driver.Delete(ctx, path.Dir(p))); err != nil && !errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("delete blob %s: %w", dgst, err)
	}
	return nil
}

// Ping implements storage.Storage.
func (s *Storage) Ping(ctx context.Context) error {
	_, err := s.driver.Stat(ctx, "/")
	if err = missing(err); errors.Is(err, storage.ErrNotFound) {
		return nil // an object store without objects has no root
	}
	return err
}

// Create implements storage.Storage.
func (s *Storage) Create(context.Context, string) (storage.Upload, error) {
	return s.newUpload(path.Join(uploadRoot, uuid.NewString())), nil
}

// Resume implements storage.Storage.
func (s *Storage) Resume(ctx context.Context, _, ref string, offset int64) (storage.Upload, error) {
	if uuid.Validate(ref) != nil {
		return nil, storage.ErrNotFound
	}
	u := s.newUpload(path.Join(uploadRoot, ref))
	info, err := s.driver.Stat(ctx, u.path)
	switch {
	case err != nil:
		return nil, missing(err)
	case info.Size() < offset:
		return nil, storage.ErrNotFound
	case info.Size() > offset && s.root == "": // an object store cannot cut
		return nil, storage.ErrNotFound
	case info.Size() > offset:
		if err := os.Truncate(filepath.Join(s.root, u.path), offset); err != nil {
			return nil, fmt.Errorf("cut upload: %w", err)
		}
	}
	u.size, u.began = offset, true
	if offset > 0 {
		u.hash = nil // it has not seen these bytes
	}
	return u, nil
}

// SweepUploads removes the bytes of uploads that were last written to before a time: what a process left that ended while it took a blob in. It must be
// so long ago that nobody resumes them.
func (s *Storage) SweepUploads(ctx context.Context, before time.Time) error {
	left, err := s.driver.List(ctx, uploadRoot)
	if err = missing(err); errors.Is(err, storage.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	for _, p := range left {
		info, err := s.driver.Stat(ctx, p)
		if err = missing(err); errors.Is(err, storage.ErrNotFound) {
			continue // it has just ended
		} else if err != nil {
			return err
		}
		if !info.ModTime().Before(before) {
			continue
		}
		if err := missing(s.driver.Delete(ctx, p)); err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
	}
	return nil
}
