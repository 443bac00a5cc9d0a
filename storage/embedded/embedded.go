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
	"sync"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // registers the default driver
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
	// synced has the directories of blobs whose own names this process has synced.
	synced sync.Map
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
