package embedded

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/storage"
)

// copyBuffer is the number of bytes that are copied at a time.
const copyBuffer = 1 << 20

// upload is one writer of an upload session. It appends to a file of its own, to which no other writer writes, and
// reads the files of earlier writers. So two processes that continue one session cannot change each other's bytes,
// nor those of a blob that one of them has committed.
//
// Between calls the driver has all bytes, because each call closes the file, and no file is open.
type upload struct {
	storage *Storage
	dir     string    // the session's directory below uploadRoot, for new files
	parts   []part    // bytes of earlier writers, in order
	stale   []string  // files whose bytes are in own too; unused once a reference without them is acknowledged
	own     part      // the file of this writer; without a name before the first write of a resumed upload
	began   bool      // the file of own exists
	hash    hash.Hash // sha256 of own if there are no parts, so that own has all bytes; nil otherwise
	ended   bool
}

var _ storage.Upload = (*upload)(nil)

// ReadFrom implements storage.Upload.
func (u *upload) ReadFrom(r io.Reader) (int64, error) {
	ctx := context.Background() //nolint:forbidigo // io.ReaderFrom has no context; r ends with its request
	if u.ended {
		return 0, storage.ErrNotFound
	}
	if u.own.name == "" {
		if err := u.gather(ctx, mergeFrom(u.parts)); err != nil {
			return 0, err
		}
	}
	w, err := u.open(ctx)
	if err != nil {
		return 0, err
	}
	to := &sink{w: w, hash: u.hash}
	n, err := io.CopyBuffer(to, onlyReader{r}, make([]byte, copyBuffer))
	if failed := errors.Join(to.err, w.Close()); failed != nil {
		u.retire()
		return 0, fmt.Errorf("write upload: %w", failed)
	}
	u.own.size += n
	return n, err
}

// sink writes to a file and hashes the written bytes. It hides the file's ReadFrom from io.CopyBuffer, which would
// use a smaller buffer, and records failed writes apart from failed reads.
type sink struct {
	w    io.Writer
	hash hash.Hash // may be nil
	err  error
}

// Write implements io.Writer.
func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if s.hash != nil {
		s.hash.Write(p[:n])
	}
	s.err = err
	return n, err
}

type onlyReader struct{ io.Reader }

// open opens the writer's own file at its end. It returns ErrNotFound if the file has another size than this writer
// has written: another process has ended the session and removed its files. Then the driver has created an empty
// file, which open removes.
func (u *upload) open(ctx context.Context) (driver.FileWriter, error) {
	name := path.Join(uploadRoot, u.own.name)
	w, err := u.storage.driver.Writer(ctx, name, u.began)
	if err != nil {
		return nil, fmt.Errorf("write upload: %w", missing(err))
	}
	if w.Size() != u.own.size {
		_ = w.Close()
		_ = u.storage.driver.Delete(ctx, name) // best effort: the sweep of old uploads removes it otherwise
		return nil, storage.ErrNotFound
	}
	u.began = true
	return w, nil
}

// retire turns the writer's own file into a part after a failed write. Only the bytes of earlier writes are known to
// be in it.
func (u *upload) retire() {
	if u.own.size > 0 {
		u.parts = append(u.parts, u.own)
	}
	u.own, u.began, u.hash = part{}, false, nil
}

// gather starts the writer's own file with a copy of all parts from an index on, and replaces them by it.
func (u *upload) gather(ctx context.Context, from int) error {
	own := part{name: path.Join(u.dir, uuid.NewString())}
	w, err := u.storage.driver.Writer(ctx, path.Join(uploadRoot, own.name), false)
	if err != nil {
		return fmt.Errorf("start part of upload: %w", err)
	}
	to := &sink{w: w}
	if from == 0 {
		to.hash = digest.SHA256.Hash()
	}
	for _, p := range u.parts[from:] {
		if err = u.storage.copyPart(ctx, to, p); err != nil {
			break
		}
		own.size += p.size
	}
	if err = errors.Join(err, w.Close()); err != nil {
		_ = u.storage.driver.Delete(ctx, path.Join(uploadRoot, own.name)) // best effort, as in open
		return err
	}
	u.stale = append(u.stale, names(u.parts[from:])...)
	u.parts, u.own, u.began, u.hash = u.parts[:from:from], own, true, to.hash
	return nil
}

// Close implements storage.Upload. It has no effect: no file is open between calls.
func (*upload) Close() error { return nil }

// Ref implements storage.Upload.
func (u *upload) Ref() string {
	parts := u.parts
	if u.own.name != "" {
		parts = append(parts[:len(parts):len(parts)], u.own)
	}
	return formatRef(parts, u.stale)
}

// Size implements storage.Upload.
func (u *upload) Size() int64 { return size(u.parts) + u.own.size }

// Commit implements storage.Upload. It copies the bytes of other writers into the file that becomes the blob, because
// those writers may still write to their files.
func (u *upload) Commit(ctx context.Context, dgst digest.Digest) error {
	to, err := blobPath(dgst)
	if err != nil {
		return err
	}
	if u.ended {
		return storage.ErrNotFound
	}
	if len(u.parts) > 0 {
		u.retire()
		if err := u.gather(ctx, 0); err != nil {
			return err
		}
	}
	if err := u.finish(ctx); err != nil {
		return err
	}
	from := path.Join(uploadRoot, u.own.name)
	actual, err := u.digest(ctx, from, dgst.Algorithm())
	if err != nil {
		return err
	}
	if actual != dgst {
		return errors.Join(storage.ErrDigest, u.Cancel(ctx))
	}
	if err := u.storage.place(ctx, from, to, dgst); err != nil {
		return fmt.Errorf("store blob %s: %w", dgst, err)
	}
	_ = u.Cancel(ctx) // best effort: the sweep of old uploads removes remaining files
	return nil
}

// digest returns the digest of the finished file: the running hash if that has all bytes, or otherwise by reading the
// file.
func (u *upload) digest(ctx context.Context, name string, algorithm digest.Algorithm) (digest.Digest, error) {
	if algorithm == digest.SHA256 && u.hash != nil {
		return digest.NewDigest(digest.SHA256, u.hash), nil
	}
	return u.storage.digest(ctx, name, algorithm)
}

// finish completes the writer's own file in the driver: an object store assembles it, the filesystem driver syncs it.
func (u *upload) finish(ctx context.Context) error {
	w, err := u.open(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(w.Commit(ctx), w.Close()); err != nil {
		u.retire()
		return fmt.Errorf("finish upload: %w", err)
	}
	return nil
}

// Cancel implements storage.Upload. It removes the files of all writers of the session.
func (u *upload) Cancel(ctx context.Context) error {
	if u.ended {
		return nil
	}
	u.ended = true
	errs := []error{u.storage.remove(ctx, u.dir)}
	for _, name := range append(names(u.parts), u.stale...) {
		if path.Dir(name) != u.dir { // of an earlier release, which had no directories
			errs = append(errs, u.storage.remove(ctx, name))
		}
	}
	return errors.Join(errs...)
}
