// Package embedded stores each blob once, with one of distribution's storage drivers: by default in files.
//
// It uses the drivers and distribution's layout of blobs, but not distribution's blob store. The database records
// which repositories have a blob, so that the links and hash states of that blob store would only cost time (two
// fsyncs each). distribution's garbage-collect must never run on this storage, because it would delete all blobs.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sync"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // registers the default driver
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/storage"
)

// Directories below the root of the driver. Blobs have the layout of distribution.
const (
	blobRoot   = "/docker/registry/v2/blobs"
	uploadRoot = "/docker/registry/v2/uploads"
)

// Options are the name and the parameters of a storage driver, as in the configuration of distribution.
type Options struct {
	Driver     string
	Parameters map[string]any
}

// Storage stores blobs with a driver. It is safe for concurrent use.
type Storage struct {
	driver driver.StorageDriver
	// root is the directory of the filesystem driver, whose writes need further syncs to be durable; empty for other
	// drivers.
	root string
	// synced contains the directories of blobs whose parents this process has synced.
	synced sync.Map
}

var _ storage.Storage = (*Storage)(nil)

// New opens a storage driver. It returns an error if there is no driver of that name or a parameter is invalid.
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

// blobPath returns the path of a blob. It returns an error for a malformed digest.
func blobPath(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("digest %q: %w", d, err)
	}
	hex := d.Encoded()
	return path.Join(blobRoot, d.Algorithm().String(), hex[:2], hex, "data"), nil
}

// missing returns ErrNotFound for the driver's error of a missing path, and other errors unchanged.
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

// openFile opens the file of a blob. The kernel can send an *os.File.
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
		return nil // an empty object store has no root
	}
	return err
}
