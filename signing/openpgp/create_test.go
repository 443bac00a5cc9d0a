package openpgp_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/signing/openpgp"
)

// TestEnsure makes a key that is for its owner alone, that others' programs know, and that stays.
func TestEnsure(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "[data]*", "keys")
	first, err := openpgp.Ensure(dir, "Countersign", "countersign@localhost")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{dir: 0o700, first: 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
	s := load(t, openpgp.Options{KeyFile: first})
	if want := s.Fingerprint() + ".asc"; filepath.Base(first) != want || s.SigningFingerprint() != s.Fingerprint() {
		t.Errorf("the file is %s, want %s", first, want)
	}
	accepted(t, s)
	// A process that was killed while it wrote left half a file.
	half := filepath.Join(dir, ".new-123")
	if err := os.WriteFile(half, []byte("-----BEGIN PGP"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := openpgp.Ensure(dir, "Countersign", "countersign@localhost"); err != nil || again != first {
		t.Errorf("Ensure = %s, %v, want %s", again, err, first)
	}
	if _, err := os.Stat(half); !os.IsNotExist(err) {
		t.Errorf("half a file is still there: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "another.asc"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if which, err := openpgp.Ensure(dir, "Countersign", "countersign@localhost"); err == nil || !strings.Contains(err.Error(), "2 keys") {
		t.Errorf("of two keys: %s, %v", which, err)
	}
}
