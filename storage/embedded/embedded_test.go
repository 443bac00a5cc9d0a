package embedded_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory" // a driver that is no file system

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
	storagetest.Run(t, func(t *testing.T) storage.Storage {
		return open(t, "filesystem", map[string]any{"rootdirectory": t.TempDir()})
	})
}

func TestAnotherDriver(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(t *testing.T) storage.Storage { return open(t, "inmemory", nil) })
}

// A process that dies in the middle of a write leaves bytes that nobody was told of.
func TestResumeDropsWhatWasNotAcknowledged(t *testing.T) {
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
	files, err := filepath.Glob(filepath.Join(root, "docker/registry/v2/uploads/*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("uploads: %v, %v", files, err)
	}
	if b, err := os.ReadFile(files[0]); err != nil || string(b) != "acknowledged" {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

func TestUnknownDriver(t *testing.T) {
	t.Parallel()
	if _, err := embedded.New(t.Context(), embedded.Options{Driver: "floppy"}); err == nil {
		t.Error("New with an unknown driver succeeded")
	}
}

func TestOpenGivesAFile(t *testing.T) {
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
	if _, ok := r.(*os.File); !ok { // or the kernel cannot send it
		t.Errorf("Open gives a %T, want an *os.File", r)
	}
}
