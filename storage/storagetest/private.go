package storagetest

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/storage"
)

// RunPrivate checks that uploads which continue the same reference share no bytes: a write to one of them changes
// neither another upload nor a stored blob. It is not for storages whose uploads are sessions of another registry;
// their callers must not let two requests write to one session.
func RunPrivate(t *testing.T, open func(t *testing.T) storage.Storage) {
	t.Helper()
	for title, test := range map[string]func(t *testing.T, s storage.Storage){
		"uploads of one reference share no bytes":             apart,
		"a write during a commit changes no blob":             overtaken,
		"an upload that another one has ended stores nothing": outlived,
		"each piece may come from another writer":             passedOn,
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// resume returns an upload that continues another one from its reference.
func resume(t *testing.T, s storage.Storage, u storage.Upload) storage.Upload {
	t.Helper()
	again, err := s.Resume(t.Context(), name, u.Ref(), u.Size())
	if err != nil {
		t.Fatalf("Resume(%q, %d) = %v", u.Ref(), u.Size(), err)
	}
	return again
}

// join returns the concatenation of byte slices in new memory.
func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func apart(t *testing.T, s storage.Storage) {
	start := content(40_000, 30)
	first := create(t, s)
	write(t, first, start)
	uploads := []storage.Upload{first, resume(t, s, first), resume(t, s, first)}
	for i, u := range uploads { // alternately, so that shared bytes would mix
		write(t, u, content(10_000, uint64(31+i)))
	}
	for i, u := range uploads {
		write(t, u, content(5_000, uint64(41+i)))
	}
	var blobs [][]byte
	for i, u := range uploads {
		b := join(start, content(10_000, uint64(31+i)), content(5_000, uint64(41+i)))
		blobs = append(blobs, b)
		if i > 0 { // a commit ends the session of the others; their common bytes may be gone
			if err := u.Commit(t.Context(), digest.FromBytes(b)); err != nil && !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("Commit of upload %d = %v, want nil or ErrNotFound", i, err)
			}
			continue
		}
		commit(t, u, digest.FromBytes(b))
	}
	wantBlob(t, s, name, digest.FromBytes(blobs[0]), blobs[0])
	for _, b := range blobs[1:] {
		if _, err := s.Stat(t.Context(), name, digest.FromBytes(b)); err == nil {
			wantBlob(t, s, name, digest.FromBytes(b), b)
		}
	}
}

// overtaken commits an upload while another upload of the same reference writes, for each order of the two.
func overtaken(t *testing.T, s storage.Storage) {
	for i, stale := range []func(storage.Upload) (writer, committer storage.Upload){
		func(u storage.Upload) (storage.Upload, storage.Upload) { return u, resume(t, s, u) },
		func(u storage.Upload) (storage.Upload, storage.Upload) { return resume(t, s, u), u },
		func(u storage.Upload) (storage.Upload, storage.Upload) { return resume(t, s, u), resume(t, s, u) },
	} {
		start, rest := content(2<<20, uint64(50+i)), content(30_000, uint64(60+i))
		first := create(t, s)
		write(t, first, start)
		writer, committer := stale(first)
		body, feed := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			_, err := writer.ReadFrom(body)
			ended <- err
		}()
		if _, err := feed.Write(content(2<<20, 70)); err != nil { // larger than all buffers: the write has started
			t.Fatal(err)
		}
		b := join(start, rest)
		write(t, committer, rest)
		commit(t, committer, digest.FromBytes(b))
		if _, err := feed.Write(content(2<<20, 71)); err != nil {
			t.Fatal(err)
		}
		if err := feed.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil && !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("case %d: the write during the commit = %v, want nil or ErrNotFound", i, err)
		}
		wantBlob(t, s, name, digest.FromBytes(b), b)
		other := digest.FromBytes(join(start, content(2<<20, 70), content(2<<20, 71)))
		if err := writer.Commit(t.Context(), digest.FromBytes(b)); err == nil {
			t.Errorf("case %d: the upload was committed under a digest of other bytes", i)
		}
		if _, err := s.Stat(t.Context(), name, other); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("case %d: Stat of the bytes of the write = %v, want ErrNotFound", i, err)
		}
		wantBlob(t, s, name, digest.FromBytes(b), b)
	}
}

// outlived continues an upload whose files the end of another one has removed: the running hash alone must not make a
// blob.
func outlived(t *testing.T, s storage.Storage) {
	for i, end := range []func(u storage.Upload, b []byte) error{
		func(u storage.Upload, _ []byte) error { return u.Cancel(t.Context()) },
		func(u storage.Upload, b []byte) error { return u.Commit(t.Context(), digest.FromBytes(b)) },
	} {
		start, rest := content(50_000, uint64(80+i)), content(20_000, uint64(90+i))
		kept := create(t, s)
		write(t, kept, start)
		if err := end(resume(t, s, kept), start); err != nil {
			t.Fatalf("case %d: the end of the other upload = %v", i, err)
		}
		_, writeErr := kept.ReadFrom(bytes.NewReader(rest))
		b := join(start, rest)
		switch err := kept.Commit(t.Context(), digest.FromBytes(b)); {
		case err == nil: // the blob must be complete then
			wantBlob(t, s, name, digest.FromBytes(b), b)
		case !errors.Is(err, storage.ErrNotFound):
			t.Errorf("case %d: ReadFrom = %v, Commit = %v, want ErrNotFound", i, writeErr, err)
		default:
			wantGone(t, s, digest.FromBytes(b))
		}
	}
}

// passedOn resumes an upload before each piece, as servers behind a load balancer do.
func passedOn(t *testing.T, s storage.Storage) {
	const pieces, size = 60, 3_000
	u := create(t, s)
	var all []byte
	for i := range pieces {
		if i > 0 {
			u = resume(t, s, u)
		}
		b := content(size, uint64(100+i))
		write(t, u, b)
		all = append(all, b...)
		if n := len(u.Ref()); n > 2_000 {
			t.Fatalf("after %d pieces the reference has %d bytes; it must not grow with their number", i+1, n)
		}
	}
	u = resume(t, s, u)
	d := digest.FromBytes(all)
	commit(t, u, d)
	wantBlob(t, s, name, d, all)
}
