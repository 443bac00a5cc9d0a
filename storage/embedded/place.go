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

// placeTries is the maximum number of attempts of place. Each can fail because a removal of the same blob deletes its
// directory.
const placeTries = 10

// place stores a finished file durably as a blob. The caller has verified the bytes of the file, to which no other
// writer writes, and removes its old name afterwards. place keeps an existing blob, unless its bytes do not match its
// digest, after a crash of the machine or on a failing disk: then the verified file replaces it atomically.
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
		if err = os.MkdirAll(filepath.Dir(target), 0o777); err != nil { // the mode of the driver; the umask reduces it
			return err
		}
		err = os.Link(source, target)
		// A file system without hard links returns ErrPermission or ErrUnsupported.
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

// whole reports whether a blob exists and its bytes match its digest. It compares the size with that of a verified
// file first.
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

// syncBlob syncs the directories of a blob, so that its name survives a power failure. The directories above the
// first two contain a few hundred names, which are not removed: one sync of each by this process is enough.
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
		err := syncDir(filepath.Join(s.root, d))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // otherwise a removal was faster; callers check the blob again
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
