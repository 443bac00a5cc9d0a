package embedded_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // a driver without files
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/storage/embedded"
	"github.com/countersign/countersign/storage/storagetest"
)

func open(t *testing.T, driver string, parameters map[string]any) *embedded.Storage {
	t.Helper()
	s, err := embedded.New(t.Context(), embedded.Options{Driver: driver, Parameters: parameters})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFilesystem(t *testing.T) {
	t.Parallel()
	in := func(t *testing.T) storage.Storage {
		return open(t, "filesystem", map[string]any{"rootdirectory": t.TempDir()})
	}
	storagetest.Run(t, in)
	storagetest.RunPrivate(t, in)
}

func TestAnotherDriver(t *testing.T) {
	t.Parallel()
	in := func(t *testing.T) storage.Storage { return open(t, "inmemory", nil) }
	storagetest.Run(t, in)
	storagetest.RunPrivate(t, in)
}

// TestResumeIgnoresUnacknowledgedBytes proves that bytes of a write that was not acknowledged, such as those of a
// process that ended, are not part of a resumed upload.
func TestResumeIgnoresUnacknowledgedBytes(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := open(t, "filesystem", map[string]any{"rootdirectory": root})
	u, err := s.Create(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.ReadFrom(bytes.NewReader([]byte("acknowledged, and not"))); err != nil {
		t.Fatal(err)
	}
	again, err := s.Resume(t.Context(), "a", u.Ref(), int64(len("acknowledged")))
	if err != nil {
		t.Fatal(err)
	}
	if again.Size() != int64(len("acknowledged")) {
		t.Errorf("Size = %d", again.Size())
	}
	d := digest.FromString("acknowledged")
	if err := again.Commit(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(root, blobFile(d))); err != nil || string(b) != "acknowledged" {
		t.Errorf("the blob has the bytes %q, %v", b, err)
	}
	wantNoUploads(t, root)
}

// blobFile returns the path of a blob below the root directory.
func blobFile(d digest.Digest) string {
	return filepath.Join("docker/registry/v2/blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded(), "data")
}

// wantNoUploads reports an error if a file of an upload exists.
func wantNoUploads(t *testing.T, root string) {
	t.Helper()
	if left, err := filepath.Glob(filepath.Join(root, "docker/registry/v2/uploads/*")); err != nil || len(left) > 0 {
		t.Errorf("uploads: %v, %v, want none", left, err)
	}
}

func put(t *testing.T, s *embedded.Storage, b []byte) digest.Digest {
	t.Helper()
	u, err := s.Create(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.ReadFrom(bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(b)
	if err := u.Commit(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestCommitOntoAnExistingBlob proves that a commit does not replace the file of a blob whose bytes are right, and
// replaces one whose bytes are wrong.
func TestCommitOntoAnExistingBlob(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := open(t, "filesystem", map[string]any{"rootdirectory": root})
	content := bytes.Repeat([]byte("0123456789"), 5_000)
	d := put(t, s, content)
	name := filepath.Join(root, blobFile(d))
	stat := func() os.FileInfo {
		t.Helper()
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, content) {
			t.Errorf("the blob does not have its bytes: %v", err)
		}
		return info
	}
	before := stat()
	put(t, s, content)
	if after := stat(); !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) {
		t.Error("pushing the same bytes again replaced the blob's file")
	}
	for damage, broken := range map[string][]byte{
		"truncated": content[:100], "too long": append(bytes.Clone(content), 'x'), "other bytes": bytes.Repeat([]byte("x"), len(content)), "empty": nil,
	} {
		if err := os.WriteFile(name, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		put(t, s, content)
		if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, content) {
			t.Errorf("%s: the blob is not repaired: %v", damage, err)
		}
	}
	wantNoUploads(t, root)
}

// TestResumeOfAnEarlierRelease proves that a reference of an earlier release, a bare file name, can be resumed. The
// file itself, which that release may still have open, does not become the blob.
func TestResumeOfAnEarlierRelease(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := open(t, "filesystem", map[string]any{"rootdirectory": root})
	uploads := filepath.Join(root, "docker/registry/v2/uploads")
	const old = "0192f0c1-7d1e-4b1c-9f7e-0d3c5a1b2c3d"
	if err := os.MkdirAll(uploads, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(uploads, old), []byte("acknowledged, and not"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(uploads, old), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	u, err := s.Resume(t.Context(), "a", old, int64(len("acknowledged")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.ReadFrom(strings.NewReader(" more")); err != nil {
		t.Fatal(err)
	}
	if u, err = s.Resume(t.Context(), "a", u.Ref(), u.Size()); err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("acknowledged more")
	if err := u.Commit(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("overwritten"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(root, blobFile(d))); err != nil || string(b) != "acknowledged more" {
		t.Errorf("the blob has the bytes %q, %v", b, err)
	}
	wantNoUploads(t, root)
}

// TestSweepUploads proves that the sweep removes an upload, of this or an earlier release, once its last write is old
// enough.
func TestSweepUploads(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := open(t, "filesystem", map[string]any{"rootdirectory": root})
	uploads := filepath.Join(root, "docker/registry/v2/uploads")
	begin := func() storage.Upload {
		t.Helper()
		u, err := s.Create(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.ReadFrom(strings.NewReader(strings.Repeat("x", 100))); err != nil {
			t.Fatal(err)
		}
		return u
	}
	now := time.Now()
	age := func(name string) {
		t.Helper()
		if err := os.Chtimes(name, now.Add(-3*time.Hour), now.Add(-3*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	session := func(u storage.Upload) string { return filepath.Join(uploads, strings.Split(u.Ref(), "/")[0]) }
	first := func(u storage.Upload) string {
		return filepath.Join(uploads, strings.Split(strings.Split(u.Ref(), ",")[0], ":")[0])
	}
	abandoned, busy := begin(), begin()
	later, err := s.Resume(t.Context(), "a", busy.Ref(), busy.Size())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := later.ReadFrom(strings.NewReader("y")); err != nil {
		t.Fatal(err)
	}
	for _, u := range []storage.Upload{abandoned, busy} {
		age(first(u))
		age(session(u))
	}
	flat := filepath.Join(uploads, "0192f0c1-7d1e-4b1c-9f7e-0d3c5a1b2c3d")
	if err := os.WriteFile(flat, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	age(flat)
	if err := s.SweepUploads(t.Context(), now.Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resume(t.Context(), "a", abandoned.Ref(), abandoned.Size()); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Resume of the abandoned upload = %v, want ErrNotFound", err)
	}
	if _, err := os.Stat(flat); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of the earlier release: %v, want none", err)
	}
	d := digest.FromString(strings.Repeat("x", 100) + "y")
	if err := later.Commit(t.Context(), d); err != nil {
		t.Errorf("Commit of the upload that is in use = %v", err)
	}
	wantNoUploads(t, root)
}

func TestUnknownDriver(t *testing.T) {
	t.Parallel()
	if _, err := embedded.New(t.Context(), embedded.Options{Driver: "floppy"}); err == nil {
		t.Error("New with an unknown driver succeeded")
	}
}

// TestOpenReturnsAFile proves that Open returns an *os.File, which the kernel can send.
func TestOpenReturnsAFile(t *testing.T) {
	t.Parallel()
	s := open(t, "filesystem", map[string]any{"rootdirectory": t.TempDir()})
	u, err := s.Create(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	const empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	if err := u.Commit(t.Context(), empty); err != nil {
		t.Fatal(err)
	}
	r, _, err := s.Open(t.Context(), "a", empty)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if _, ok := r.(*os.File); !ok {
		t.Errorf("Open returns a %T, want an *os.File", r)
	}
}
