package openpgp_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/signing/openpgp"
	"github.com/countersign/countersign/signing/signtest"
)

// home is a GnuPG home directory.
type home struct {
	t   *testing.T
	dir string
}

// newHome makes a GnuPG home. Its path is short, since it contains the socket of gpg-agent.
func newHome(t *testing.T) home {
	t.Helper()
	for _, tool := range []string{"gpg", "gpgconf"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	dir, err := os.MkdirTemp("", "cs") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", dir, "--kill", "all").Run()
		_ = os.RemoveAll(dir)
	})
	return home{t, dir}
}

// run runs gpg and returns its output.
func (h home) run(args ...string) []byte {
	h.t.Helper()
	return h.feed("", args...)
}

// feed runs gpg with the given standard input and returns its output.
func (h home) feed(in string, args ...string) []byte {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), "gpg", append([]string{"--batch", "--quiet", "--yes", "--no-tty", "--homedir", h.dir}, args...)...)
	cmd.Stdin = strings.NewReader(in)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		h.t.Fatalf("gpg %v: %v\n%s", args, err, errOut.String())
	}
	return out
}

// generate makes a key. An empty passphrase means no protection.
func (h home) generate(algorithm, usage, expiry, passphrase string, more ...string) {
	h.t.Helper()
	name := fmt.Sprintf("Test <%s@example.com>", algorithm)
	h.run(append(more, "--pinentry-mode", "loopback", "--passphrase", passphrase, "--quick-generate-key", name, algorithm, usage, expiry)...)
}

// fingerprint returns the fingerprint of the first key.
func (h home) fingerprint() string {
	h.t.Helper()
	for line := range strings.Lines(string(h.run("--with-colons", "--list-keys"))) {
		if fields := strings.Split(line, ":"); fields[0] == "fpr" {
			return fields[9]
		}
	}
	h.t.Fatal("no key")
	return ""
}

// export writes all secret keys to a private file and returns its name.
func (h home) export(passphrase string, args ...string) string {
	h.t.Helper()
	if len(args) == 0 {
		args = []string{"--armor", "--export-secret-keys"}
	}
	return writeFile(h.t, h.run(append([]string{"--pinentry-mode", "loopback", "--passphrase", passphrase}, args...)...))
}

// writeFile writes a private file and returns its name.
func writeFile(t testing.TB, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// checkWithClients verifies a signature of s with gpg and skopeo.
func checkWithClients(t *testing.T, s *openpgp.Signer) {
	t.Helper()
	h := newHome(t)
	const manifest = `{"schemaVersion": 2}`
	r := signtest.Request("localhost:5000/a/b:1", manifest)
	raw, err := s.Sign(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	h.feed(s.PublicKey(), "--import")
	signature := writeFile(t, raw)
	out, err := exec.CommandContext(t.Context(), "gpg", "--batch", "--no-tty", "--homedir", h.dir, "--status-fd", "1", "--verify", signature).Output()
	if err != nil || !bytes.Contains(out, []byte("VALIDSIG")) {
		t.Errorf("gpg --verify: %v\n%s", err, out)
	}
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("skopeo is not installed")
	}
	verify := exec.CommandContext(t.Context(), "skopeo", "standalone-verify", writeFile(t, []byte(manifest)), r.Claim.DockerReference, s.SigningFingerprint(), signature)
	verify.Env = append(os.Environ(), "GNUPGHOME="+h.dir)
	want := "digest " + digest.FromString(manifest).String()
	if out, err := verify.CombinedOutput(); err != nil || !bytes.Contains(out, []byte(want)) {
		t.Errorf("skopeo standalone-verify: %v\n%s", err, out)
	}
}
