// Package storagetest contains the tests that every storage.Storage and every storage.Manifests passes.
package storagetest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/storage"
)

// name is the repository of the tests.
const name = "suite/one"

// Run tests a Storage. open returns an empty one and is called once for each case. The cases with the titles in
// without are left out, for a registry behind the storage that does not support them.
func Run(t *testing.T, open func(t *testing.T) storage.Storage, without ...string) {
	t.Helper()
	cases := map[string]func(t *testing.T, s storage.Storage){
		"a blob has the bytes that were written":           roundTrips,
		"a blob may be written in many pieces":             pieces,
		"a wrong digest stores nothing":                    wrongDigest,
		"sha512 is stored or unsupported":                  sha512,
		"a wrong sha512 stores nothing":                    wrongSHA512,
		"an upload is resumed at its end":                  resumes,
		"an upload with fewer bytes is not resumed":        resumesNot,
		"a canceled upload is gone":                        cancels,
		"two uploads of one blob both succeed":             twice,
		"a blob can be read from any position":             seeks,
		"a mounted blob has the other name too":            mounts,
		"a deleted blob is gone, and may be deleted again": deletes,
		"an unknown blob is not found":                     unknown,
		"the size is known after a failed read":            breaks,
		"Finish stores a blob in one step":                 finishes,
		"Finish stores sha512 or does not support it":      finishesSHA512,
		"Finish appends the last bytes":                    finishesLater,
		"Finish stores nothing under a wrong digest":       finishesWrong,
		"Finish stores nothing after a failed read":        finishesNot,
	}
	for _, title := range without {
		if _, ok := cases[title]; !ok {
			t.Fatalf("no case has the title %q", title)
		}
		delete(cases, title)
	}
	for title, test := range cases {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

// content returns n bytes that do not compress, the same ones for the same seed.
func content(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

func create(t *testing.T, s storage.Storage) storage.Upload {
	t.Helper()
	u, err := s.Create(t.Context(), name)
	if err != nil {
		t.Fatalf("Create = %v", err)
	}
	return u
}

func write(t *testing.T, u storage.Upload, b []byte) {
	t.Helper()
	before := u.Size()
	n, err := u.ReadFrom(bytes.NewReader(b))
	if err != nil || n != int64(len(b)) || u.Size() != before+n {
		t.Fatalf("ReadFrom = %d, %v, size %d; want %d bytes after %d", n, err, u.Size(), len(b), before)
	}
}

func commit(t *testing.T, u storage.Upload, d digest.Digest) {
	t.Helper()
	if err := u.Commit(t.Context(), d); err != nil {
		t.Fatalf("Commit(%s) = %v", d, err)
	}
	if err := u.Close(); err != nil {
		t.Errorf("Close after Commit = %v", err)
	}
}

func put(t *testing.T, s storage.Storage, b []byte) digest.Digest {
	t.Helper()
	u, d := create(t, s), digest.FromBytes(b)
	write(t, u, b)
	commit(t, u, d)
	return d
}

func wantBlob(t *testing.T, s storage.Storage, name string, d digest.Digest, want []byte) {
	t.Helper()
	if n, err := s.Stat(t.Context(), name, d); err != nil || n != int64(len(want)) {
		t.Errorf("Stat = %d, %v, want %d", n, err, len(want))
	}
	r, n, err := s.Open(t.Context(), name, d)
	if err != nil || n != int64(len(want)) {
		t.Fatalf("Open = %d, %v, want %d", n, err, len(want))
	}
	defer func() { _ = r.Close() }()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v, want the %d that were written", len(got), err, len(want))
	}
}

func wantGone(t *testing.T, s storage.Storage, d digest.Digest) {
	t.Helper()
	if _, err := s.Stat(t.Context(), name, d); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Stat = %v, want ErrNotFound", err)
	}
	if r, _, err := s.Open(t.Context(), name, d); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Open = %v, want ErrNotFound", err)
		if err == nil {
			_ = r.Close()
		}
	}
}

func roundTrips(t *testing.T, s storage.Storage) {
	for _, size := range []int{0, 1, 17_000, 20 << 20} {
		b := content(size, 1)
		wantBlob(t, s, name, put(t, s, b), b)
	}
}

func pieces(t *testing.T, s storage.Storage) {
	b := content(300_000, 2)
	u := create(t, s)
	for at := 0; at < len(b); at += 70_000 {
		write(t, u, b[at:min(at+70_000, len(b))])
	}
	d := digest.FromBytes(b)
	commit(t, u, d)
	wantBlob(t, s, name, d, b)
}

func wrongDigest(t *testing.T, s storage.Storage) {
	b, other := content(40_000, 3), digest.FromString("other")
	u := create(t, s)
	write(t, u, b)
	if err := u.Commit(t.Context(), other); !errors.Is(err, storage.ErrDigest) {
		t.Errorf("Commit under another digest = %v, want ErrDigest", err)
	}
	wantGone(t, s, other)
	wantGone(t, s, digest.FromBytes(b))
	if _, err := s.Resume(t.Context(), name, u.Ref(), u.Size()); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Resume after a wrong digest = %v, want ErrNotFound", err)
	}
}

func sha512(t *testing.T, s storage.Storage) {
	b := content(50_000, 4)
	d := digest.SHA512.FromBytes(b)
	u := create(t, s)
	write(t, u, b)
	switch err := u.Commit(t.Context(), d); {
	case errors.Is(err, storage.ErrUnsupported):
		t.Log("this storage does not support sha512")
		wantGone(t, s, d)
	case err != nil:
		t.Errorf("Commit = %v", err)
	default:
		wantBlob(t, s, name, d, b)
	}
}

func wrongSHA512(t *testing.T, s storage.Storage) {
	other := digest.SHA512.FromString("other")
	u := create(t, s)
	write(t, u, content(10_000, 15))
	if err := u.Commit(t.Context(), other); !errors.Is(err, storage.ErrDigest) && !errors.Is(err, storage.ErrUnsupported) {
		t.Errorf("Commit under another sha512 = %v, want ErrDigest or ErrUnsupported", err)
	}
	wantGone(t, s, other)
}

func resumes(t *testing.T, s storage.Storage) {
	b := content(200_000, 5)
	u := create(t, s)
	write(t, u, b[:120_000])
	ref, size := u.Ref(), u.Size()
	if err := u.Close(); err != nil {
		t.Fatalf("Close = %v", err)
	}
	again, err := s.Resume(t.Context(), name, ref, size)
	if err != nil {
		t.Fatalf("Resume = %v", err)
	}
	if again.Size() != size {
		t.Errorf("Size after Resume = %d, want %d", again.Size(), size)
	}
	write(t, again, b[120_000:])
	d := digest.FromBytes(b)
	commit(t, again, d)
	wantBlob(t, s, name, d, b)
}

func resumesNot(t *testing.T, s storage.Storage) {
	u := create(t, s)
	write(t, u, content(1000, 6))
	if err := u.Close(); err != nil {
		t.Fatalf("Close = %v", err)
	}
	if _, err := s.Resume(t.Context(), name, u.Ref(), 2000); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Resume after the end = %v, want ErrNotFound", err)
	}
	if _, err := s.Resume(t.Context(), name, "../../etc/passwd", 0); err == nil {
		t.Error("Resume of a malformed reference succeeded")
	}
}

func cancels(t *testing.T, s storage.Storage) {
	u := create(t, s)
	write(t, u, content(30_000, 7))
	ref, size := u.Ref(), u.Size()
	for range 2 {
		if err := u.Cancel(t.Context()); err != nil {
			t.Errorf("Cancel = %v", err)
		}
	}
	if _, err := s.Resume(t.Context(), name, ref, size); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Resume after Cancel = %v, want ErrNotFound", err)
	}
}

func twice(t *testing.T, s storage.Storage) {
	b := content(60_000, 8)
	d := digest.FromBytes(b)
	var wg sync.WaitGroup
	for range 4 {
		u := create(t, s)
		write(t, u, b)
		wg.Go(func() {
			if err := u.Commit(t.Context(), d); err != nil {
				t.Errorf("Commit = %v", err)
			}
		})
	}
	wg.Wait()
	wantBlob(t, s, name, d, b)
}

func seeks(t *testing.T, s storage.Storage) {
	b := content(100_000, 9)
	r, _, err := s.Open(t.Context(), name, put(t, s, b))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	for _, at := range []int64{50_000, 0, 99_990, 50_000} {
		if got, err := r.Seek(at, io.SeekStart); err != nil || got != at {
			t.Fatalf("Seek(%d) = %d, %v", at, got, err)
		}
		got := make([]byte, 10)
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, b[at:at+10]) {
			t.Errorf("10 bytes at %d: %v, %v", at, got, err)
		}
	}
	if end, err := r.Seek(0, io.SeekEnd); err != nil || end != int64(len(b)) {
		t.Errorf("Seek to the end = %d, %v", end, err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("Read at the end = %d, %v, want EOF", n, err)
	}
}

func mounts(t *testing.T, s storage.Storage) {
	b := content(20_000, 10)
	d := put(t, s, b)
	for range 2 {
		if err := s.Mount(t.Context(), name, "suite/two", d); err != nil {
			t.Fatalf("Mount = %v", err)
		}
	}
	wantBlob(t, s, "suite/two", d, b)
	if err := s.Mount(t.Context(), name, "suite/two", digest.FromString("none")); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Mount of an unknown blob = %v, want ErrNotFound", err)
	}
}

func deletes(t *testing.T, s storage.Storage) {
	d := put(t, s, content(20_000, 11))
	err := s.Delete(t.Context(), name, d)
	if errors.Is(err, storage.ErrUnsupported) {
		t.Skip("this storage does not delete")
	}
	if err != nil {
		t.Fatalf("Delete = %v", err)
	}
	wantGone(t, s, d)
	if err := s.Delete(t.Context(), name, d); err != nil {
		t.Errorf("Delete again = %v", err)
	}
}

func unknown(t *testing.T, s storage.Storage) {
	wantGone(t, s, digest.FromString("unknown"))
	upper := digest.Digest("sha256:" + strings.Repeat("A", 64))
	for _, d := range []digest.Digest{"", "sha256:../../x", upper, "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if _, err := s.Stat(t.Context(), name, d); err == nil {
			t.Errorf("Stat(%q) succeeded", d)
		}
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("Ping = %v", err)
	}
}

var errBroken = errors.New("the client has closed the connection")

func breaks(t *testing.T, s storage.Storage) {
	u := create(t, s)
	write(t, u, content(20_000, 12))
	_, err := u.ReadFrom(io.MultiReader(bytes.NewReader(content(5000, 13)), failingReader{}))
	if !errors.Is(err, errBroken) {
		t.Errorf("ReadFrom of a failing reader = %v, want its error", err)
	}
	if n := u.Size(); n < 20_000 || n > 25_000 {
		t.Errorf("Size afterwards = %d, want 20000 to 25000", n)
	}
	if err := u.Cancel(t.Context()); err != nil {
		t.Errorf("Cancel = %v", err)
	}
}

// failingReader returns errBroken.
type failingReader struct{}

// Read implements io.Reader.
func (failingReader) Read([]byte) (int, error) { return 0, errBroken }
