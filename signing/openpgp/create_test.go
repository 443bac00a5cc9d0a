package openpgp_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/signing/openpgp"
)

// TestEnsure proves that the key is private, that gpg and skopeo support it, and that later calls return it.
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
	checkWithClients(t, s)
	// An incomplete file of a process that was killed.
	incomplete := filepath.Join(dir, ".new-123")
	if err := os.WriteFile(incomplete, []byte("-----BEGIN PGP"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := openpgp.Ensure(dir, "Countersign", "countersign@localhost"); err != nil || again != first {
		t.Errorf("Ensure = %s, %v, want %s", again, err, first)
	}
	if _, err := os.Stat(incomplete); !os.IsNotExist(err) {
		t.Errorf("the incomplete file still exists: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "another.asc"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if which, err := openpgp.Ensure(dir, "Countersign", "countersign@localhost"); err == nil || !strings.Contains(err.Error(), "2 keys") {
		t.Errorf("Ensure with two keys = %s, %v, want an error", which, err)
	}
}
