package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/storage"
)

// placeTries is how often place tries again when a removal of the same blob takes its directory away.
const placeTries = 10

// place makes a finished file available as a blob, durably. The caller has verified its bytes and is the only one who could write to it; it removes the
// file's old name afterwards. A blob that is there already stays, unless its bytes are not its digest's, as a crash of the machine or a failing disk may
// leave them: then the verified file replaces it at once.
func (s *Storage) place(ctx context.Context, from, to string, dgst digest.Digest) error {
	if s.root == "" {
		if s.whole(ctx, from, to, dgst) {
			return nil
		}
		return missing(s.driver.Move(ctx, from, to))
	}
	source, target := filepath.Join(s.root, from), filepath.Join(s.root, to)
	var err error
	for range placeTries {
		if err = os.MkdirAll(filepath.Dir(target), 0o777); err != nil { // as the driver does; the umask decides
			return err
		}
		err = os.Link(source, target)
		// A file system without hard links says ErrPermission or ErrUnsupported.
		if errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, errors.ErrUnsupported) {
			if err = nil; !s.whole(ctx, from, to, dgst) {
				err = os.Rename(source, target)
			}
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		if _, gone := os.Lstat(source); errors.Is(gone, fs.ErrNotExist) {
			return storage.ErrNotFound
		}
	}
	if err != nil {
		return err
	}
	return s.syncBlob(to)
}

// whole reports whether a blob is there with the bytes of its digest. It compares the size with that of a verified file first.
func (s *Storage) whole(ctx context.Context, verified, name string, dgst digest.Digest) bool {
	want, err := s.driver.Stat(ctx, verified)
	if err != nil {
		return false
	}
	have, err := s.driver.Stat(ctx, name)
	if err != nil || have.Size() != want.Size() {
		return false
	}
	actual, err := s.digest(ctx, name, dgst.Algorithm())
	return err == nil && actual == dgst
}

// syncBlob syncs the directories of a blob, so that its name survives a power cut. Those above the blob's own hold a few hundred names, which stay:
// one sync of each by this process is enough.
func (s *Storage) syncBlob(name string) error {
	dir := path.Dir(name)   // <hex>/
	prefix := path.Dir(dir) // <2 hex>/
	up := path.Dir(prefix)  // <algorithm>/
	dirs := []string{dir, prefix}
	_, synced := s.synced.Load(prefix)
	if !synced {
		dirs = append(dirs, up, blobRoot)
	}
	for _, d := range dirs {
		if err := syncDir(filepath.Join(s.root, d)); err != nil && !errors.Is(err, fs.ErrNotExist) { // a removal of the blob was faster: callers look again
			return fmt.Errorf("sync directory: %w", err)
		}
	}
	s.synced.Store(prefix, true)
	return nil
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
