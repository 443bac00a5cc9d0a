package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/storage"
)

// part is the start of one writer's file: bytes that do not change any more, although the writer may append to the
// file.
type part struct {
	name string // below uploadRoot: <session>/<file>, or <file> of an earlier release
	size int64  // bytes that belong to the upload
}

// names returns the names of the files.
func names(parts []part) []string {
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = p.name
	}
	return names
}

func size(parts []part) (n int64) {
	for _, p := range parts {
		n += p.size
	}
	return n
}

// formatRef returns the reference of an upload: its parts in order, each as name:size, and then the files that they
// replace, each with the prefix "-".
func formatRef(parts []part, stale []string) string {
	texts := make([]string, 0, len(parts)+len(stale))
	for _, p := range parts {
		texts = append(texts, p.name+":"+strconv.FormatInt(p.size, 10))
	}
	for _, name := range stale {
		texts = append(texts, "-"+name)
	}
	return strings.Join(texts, ",")
}

// parseRef reads a reference. A bare file name is the reference of an earlier release, for the first offset bytes of
// the file. It returns ErrNotFound for a malformed reference.
func parseRef(ref string, offset int64) (parts []part, stale []string, err error) {
	if validFile(ref) {
		return []part{{ref, offset}}, nil, nil
	}
	for text := range strings.SplitSeq(ref, ",") {
		if name, ok := strings.CutPrefix(text, "-"); ok && validPart(name) {
			stale = append(stale, name)
			continue
		}
		name, length, _ := strings.Cut(text, ":")
		n, err := strconv.ParseInt(length, 10, 64)
		if err != nil || n < 0 || !validPart(name) {
			return nil, nil, storage.ErrNotFound
		}
		parts = append(parts, part{name, n})
	}
	return parts, stale, nil
}

// validPart reports whether a name is the name of a part's file, of this or an earlier release.
func validPart(name string) bool {
	dir, file, ok := strings.Cut(name, "/")
	return validFile(dir) && (!ok || validFile(file))
}

func validFile(name string) bool { return len(name) == 36 && uuid.Validate(name) == nil }

// trim returns the parts of the first n bytes, or ErrNotFound if there are fewer bytes.
func trim(parts []part, n int64) ([]part, error) {
	for i := range parts {
		if parts[i].size >= n {
			parts[i].size = n
			return parts[:i+1], nil
		}
		n -= parts[i].size
	}
	return nil, storage.ErrNotFound
}

// mergeFrom returns the index of the first part that a new writer copies into its own file. It copies each part that
// is less than twice as long as all parts after it. So the number of parts, and the number of copies of a byte, grow
// with the logarithm of the number of writers.
func mergeFrom(parts []part) int {
	from, after := len(parts), int64(0)
	for i, p := range slices.Backward(parts) {
		if p.size < 2*after {
			from = i
		}
		after += p.size
	}
	return from
}

// copyPart writes the bytes of a part to w. It returns ErrNotFound if they do not exist any more.
func (s *Storage) copyPart(ctx context.Context, w io.Writer, p part) error {
	r, err := s.driver.Reader(ctx, path.Join(uploadRoot, p.name), 0)
	if err != nil {
		return fmt.Errorf("read part of upload: %w", missing(err))
	}
	defer func() { _ = r.Close() }()
	n, err := io.CopyBuffer(w, onlyReader{io.LimitReader(r, p.size)}, make([]byte, copyBuffer))
	if err == nil && n < p.size {
		return storage.ErrNotFound
	}
	return err
}

// digest reads a file and returns its digest.
func (s *Storage) digest(ctx context.Context, name string, algorithm digest.Algorithm) (digest.Digest, error) {
	r, err := s.driver.Reader(ctx, name, 0)
	if err != nil {
		return "", missing(err)
	}
	h := algorithm.Hash()
	_, err = io.CopyBuffer(&sink{w: h}, onlyReader{r}, make([]byte, copyBuffer))
	return digest.NewDigest(algorithm, h), errors.Join(err, r.Close())
}

// remove deletes a file or a directory below uploadRoot. It returns nil if that does not exist.
func (s *Storage) remove(ctx context.Context, name string) error {
	if err := missing(s.driver.Delete(ctx, path.Join(uploadRoot, name))); err != nil && !errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("remove upload: %w", err)
	}
	return nil
}

// Create implements storage.Storage.
func (s *Storage) Create(context.Context, string) (storage.Upload, error) {
	dir := uuid.NewString()
	return &upload{storage: s, dir: dir, own: part{name: path.Join(dir, uuid.NewString())}, hash: digest.SHA256.Hash()}, nil
}

// Resume implements storage.Storage. It does not change the files of earlier writers, which may still write.
func (s *Storage) Resume(ctx context.Context, _, ref string, offset int64) (storage.Upload, error) {
	parts, stale, err := parseRef(ref, offset)
	if err != nil {
		return nil, err
	}
	if parts, err = trim(parts, offset); err != nil {
		return nil, err
	}
	u := &upload{storage: s, parts: parts}
	for _, p := range parts {
		info, err := s.driver.Stat(ctx, path.Join(uploadRoot, p.name))
		if err != nil {
			return nil, missing(err)
		}
		if info.Size() < p.size {
			return nil, storage.ErrNotFound
		}
		if dir := path.Dir(p.name); dir != "." {
			u.dir = dir
		}
	}
	if u.dir == "" {
		u.dir = uuid.NewString()
	}
	for _, name := range stale { // the reference is acknowledged: no earlier one, which needs these files, is used any more
		_ = s.remove(ctx, name) // best effort: the end of the session removes them otherwise
	}
	return u, nil
}

// SweepUploads removes uploads without a write since a time, such as those of a process that ended while it received
// a blob. The caller chooses a time after which it does not resume uploads.
func (s *Storage) SweepUploads(ctx context.Context, before time.Time) error {
	sessions, err := s.list(ctx, uploadRoot)
	if err != nil {
		return err
	}
	for _, session := range sessions {
		last, err := s.lastWrite(ctx, session)
		if errors.Is(err, storage.ErrNotFound) {
			continue // the upload has just ended
		} else if err != nil {
			return err
		}
		if !last.Before(before) {
			continue
		}
		if err := s.remove(ctx, path.Base(session)); err != nil {
			return err
		}
	}
	return nil
}

// list returns the paths in a directory; none if the directory does not exist.
func (s *Storage) list(ctx context.Context, dir string) ([]string, error) {
	names, err := s.driver.List(ctx, dir)
	if err = missing(err); errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	return names, err
}

// lastWrite returns the time of the last write to a file, or to any file in the directory of a session. It returns
// ErrNotFound if that does not exist any more.
func (s *Storage) lastWrite(ctx context.Context, name string) (time.Time, error) {
	info, err := s.driver.Stat(ctx, name)
	if err != nil {
		return time.Time{}, missing(err)
	}
	last := info.ModTime()
	if !info.IsDir() {
		return last, nil
	}
	files, err := s.list(ctx, name)
	if err != nil {
		return last, err
	}
	for _, file := range files {
		info, err := s.driver.Stat(ctx, file)
		if err != nil {
			return last, missing(err)
		}
		if info.ModTime().After(last) {
			last = info.ModTime()
		}
	}
	return last, nil
}
