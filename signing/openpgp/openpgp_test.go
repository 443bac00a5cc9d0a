package openpgp_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	pgp "github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/openpgp"
	"github.com/countersign/countersign/signing/signtest"
)

// home is a home directory of a real gpg.
type home struct {
	t   *testing.T
	dir string
}

// newHome makes one whose path is short: gpg-agent's socket lies in it.
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

// run calls gpg and returns what it prints.
func (h home) run(args ...string) []byte {
	h.t.Helper()
	return h.feed("", args...)
}

// feed calls gpg with a standard input.
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

// generate makes a key: of an algorithm, for a usage, until an expiry, protected by a passphrase or not.
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

// export writes all secret keys into a file that only its owner may read.
func (h home) export(passphrase string, args ...string) string {
	h.t.Helper()
	if len(args) == 0 {
		args = []string{"--armor", "--export-secret-keys"}
	}
	return keep(h.t, h.run(append([]string{"--pinentry-mode", "loopback", "--passphrase", passphrase}, args...)...))
}

// keep writes bytes into a file that only its owner may read.
func keep(t testing.TB, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// accepted sees that other people's programs accept what a signer makes.
func accepted(t *testing.T, s *openpgp.Signer) {
	t.Helper()
	h := newHome(t)
	const manifest = `{"schemaVersion": 2}`
	r := signtest.Request("localhost:5000/a/b:1", manifest)
	raw, err := s.Sign(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	h.feed(s.PublicKey(), "--import")
	signature := keep(t, raw)
	said, err := exec.CommandContext(t.Context(), "gpg", "--batch", "--no-tty", "--homedir", h.dir, "--status-fd", "1", "--verify", signature).Output()
	if err != nil || !bytes.Contains(said, []byte("VALIDSIG")) {
		t.Errorf("gpg --verify: %v\n%s", err, said)
	}
	if _, err := exec.LookPath("skopeo"); err != nil {
		t.Skip("skopeo is not installed")
	}
	verify := exec.CommandContext(t.Context(), "skopeo", "standalone-verify", keep(t, []byte(manifest)), r.Claim.DockerReference, s.SigningFingerprint(), signature)
	verify.Env = append(os.Environ(), "GNUPGHOME="+h.dir)
	want := "digest " + digest.FromString(manifest).String()
	if said, err := verify.CombinedOutput(); err != nil || !bytes.Contains(said, []byte(want)) {
		t.Errorf("skopeo standalone-verify: %v\n%s", err, said)
	}
}

func load(t *testing.T, o openpgp.Options) *openpgp.Signer {
	t.Helper()
	s, err := openpgp.Load(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestKeysOfGnuPG signs with keys that gpg made, of every kind that can be used, and has gpg and skopeo verify it.
func TestKeysOfGnuPG(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"rsa2048", "rsa3072", "rsa4096", "ed25519", "nistp256", "nistp384", "nistp521"} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			h := newHome(t)
			h.generate(algorithm, "sign", "never", "")
			s := load(t, openpgp.Options{KeyFile: h.export(""), Creator: "test 1"})
			if got, want := s.Fingerprint(), h.fingerprint(); got != want || s.SigningFingerprint() != want {
				t.Errorf("key %s, signing %s, want %s", got, s.SigningFingerprint(), want)
			}
			accepted(t, s)
			signtest.Run(t, func(*testing.T) (signing.Signer, signing.PublicKey) { return s, s.Public() })
		})
	}
	t.Run("binary, with a subkey that encrypts", func(t *testing.T) {
		t.Parallel()
		h := newHome(t)
		h.run("--passphrase", "", "--quick-generate-key", "Test <test@example.com>", "default", "default", "never")
		accepted(t, load(t, openpgp.Options{KeyFile: h.export("", "--export-secret-keys")}))
	})
	t.Run("protected", func(t *testing.T) {
		t.Parallel()
		h := newHome(t)
		h.generate("ed25519", "sign", "never", "open sesame")
		key := h.export("open sesame")
		accepted(t, load(t, openpgp.Options{KeyFile: key, PassphraseFile: keep(t, []byte("open sesame\r\nmore"))}))
		for _, passphrase := range []string{"open", "", "\nopen sesame"} {
			s, err := openpgp.Load(openpgp.Options{KeyFile: key, PassphraseFile: keep(t, []byte(passphrase))})
			if !fault.Is(err, fault.Invalid) || strings.Contains(err.Error(), "sesame") {
				t.Errorf("with the passphrase %q: %v, %v", passphrase, s, err)
			}
		}
		if _, err := openpgp.Load(openpgp.Options{KeyFile: key}); !fault.Is(err, fault.Invalid) {
			t.Errorf("without a passphrase: %v", err)
		}
	})
}

// TestSubkeys takes the primary key where it may sign, and else the newest subkey that may, when its secret is there.
func TestSubkeys(t *testing.T) {
	t.Parallel()
	ago := func(d time.Duration) string { return time.Now().Add(-d).UTC().Format("20060102T150405") + "!" }
	h := newHome(t)
	h.generate("ed25519", "cert", "never", "", "--faked-system-time", ago(5*time.Hour))
	primary := h.fingerprint()
	if _, err := openpgp.Load(openpgp.Options{KeyFile: h.export("")}); !fault.Is(err, fault.Invalid) || errors.Is(err, openpgp.ErrNotValid) {
		t.Errorf("a key that only certifies: %v, want Invalid", err)
	}
	add := func(age time.Duration, algorithm, expiry string) {
		t.Helper()
		h.run("--faked-system-time", ago(age), "--passphrase", "", "--quick-add-key", primary, algorithm, "sign", expiry)
	}
	signing := func(name string, export ...string) string {
		t.Helper()
		s := load(t, openpgp.Options{KeyFile: h.export("", export...)})
		if s.Fingerprint() != primary || s.SigningFingerprint() == primary {
			t.Errorf("%s: key %s, signing %s, want a subkey of %s", name, s.Fingerprint(), s.SigningFingerprint(), primary)
		}
		accepted(t, s)
		return s.SigningFingerprint()
	}
	add(4*time.Hour, "rsa2048", "seconds=5400")
	if _, err := openpgp.Load(openpgp.Options{KeyFile: h.export("")}); !errors.Is(err, openpgp.ErrNotValid) {
		t.Errorf("with a subkey that has expired: %v, want ErrNotValid", err)
	}
	add(3*time.Hour, "rsa2048", "never")
	first := signing("one subkey")
	if got := signing("without the primary secret", "--armor", "--export-secret-subkeys"); got != first {
		t.Errorf("without the primary secret %s signs, want %s", got, first)
	}
	add(2*time.Hour, "ed25519", "seconds=1800")
	if got := signing("a newer one that has expired"); got != first {
		t.Errorf("with a newer subkey that has expired %s signs, want %s", got, first)
	}
	add(time.Hour, "ed25519", "never")
	newest := signing("a newer one")
	if newest == first {
		t.Error("the older of two subkeys signs")
	}
	if got := signing("the older one's secret alone", "--armor", "--export-secret-subkeys", first+"!"); got != first {
		t.Errorf("where only its secret is there, %s signs, want %s", got, first)
	}
	h = newHome(t)
	h.generate("ed25519", "sign", "never", "")
	primary = h.fingerprint()
	add(0, "ed25519", "never")
	if s := load(t, openpgp.Options{KeyFile: h.export("")}); s.SigningFingerprint() != primary {
		t.Errorf("%s signs, want the primary key %s", s.SigningFingerprint(), primary)
	}
}

// TestRefused refuses what is no single valid key of a kind that clients read.
func TestRefused(t *testing.T) {
	t.Parallel()
	past := time.Now().Add(-48*time.Hour).UTC().Format("20060102T150405") + "!"
	tests := map[string]struct {
		file     func(h home) string
		want     string // in the sentence
		notValid bool
	}{
		"an RSA key of 1024 bits": {func(h home) string { h.generate("rsa1024", "sign", "never", ""); return h.export("") }, "1024 bits", false},
		"a DSA key":               {func(h home) string { h.generate("dsa2048", "sign", "never", ""); return h.export("") }, "algorithm", false},
		"a brainpool key":         {func(h home) string { h.generate("brainpoolP256r1", "sign", "never", ""); return h.export("") }, "algorithm", false},
		"a secp256k1 key":         {func(h home) string { h.generate("secp256k1", "sign", "never", ""); return h.export("") }, "algorithm", false},
		"an expired key": {func(h home) string {
			h.generate("ed25519", "sign", "1d", "", "--faked-system-time", past)
			return h.export("")
		}, "expired", true},
		"a revoked key": {func(h home) string {
			h.generate("ed25519", "sign", "never", "")
			revocation, err := os.ReadFile(filepath.Join(h.dir, "openpgp-revocs.d", h.fingerprint()+".rev"))
			if err != nil {
				h.t.Fatal(err)
			}
			h.feed(strings.Replace(string(revocation), ":-----BEGIN", "-----BEGIN", 1), "--import")
			return h.export("")
		}, "revoked", true},
		"two keys": {func(h home) string {
			h.generate("ed25519", "sign", "never", "")
			h.generate("nistp256", "sign", "never", "")
			return h.export("")
		}, "2 keys", false},
		"two armors": {func(h home) string {
			h.generate("ed25519", "sign", "never", "")
			one := h.run("--armor", "--export-secret-keys")
			return keep(h.t, append(one, one...))
		}, "several keys", false},
		"a public key": {func(h home) string {
			h.generate("ed25519", "sign", "never", "")
			return keep(h.t, h.run("--armor", "--export"))
		}, "public key only", false},
		"a binary public key": {func(h home) string {
			h.generate("ed25519", "sign", "never", "")
			return keep(h.t, h.run("--export"))
		}, "public key only", false},
		"half a key": {func(h home) string {
			h.generate("rsa2048", "sign", "never", "")
			b := h.run("--export-secret-keys")
			return keep(h.t, b[:len(b)/2])
		}, "cannot be used", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := openpgp.Load(openpgp.Options{KeyFile: tt.file(newHome(t))})
			f, ok := errors.AsType[*fault.Error](err)
			if !ok || f.Kind != fault.Invalid || !strings.Contains(f.Msg, tt.want) || errors.Is(err, openpgp.ErrNotValid) != tt.notValid {
				t.Errorf("Load = %v, %v, want %q", s, err, tt.want)
			}
		})
	}
}

// secretOf writes an entity's secret key as ASCII armor.
func secretOf(t testing.TB, e *pgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, pgp.PrivateKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.SerializePrivate(w, nil), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestNewerKindsOfKeysAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]packet.Config{
		"version 6":               {V6Keys: true, Algorithm: packet.PubKeyAlgoEd25519},
		"Ed25519 as RFC 9580 has": {Algorithm: packet.PubKeyAlgoEd25519},
		"Ed448":                   {Algorithm: packet.PubKeyAlgoEd448},
	} {
		if s, err := openpgp.Load(openpgp.Options{KeyFile: keep(t, secretOf(t, newEntity(t, c)))}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

// TestFiles reads regular files that only their owner may read.
func TestFiles(t *testing.T) {
	t.Parallel()
	key := secretOf(t, newEntity(t, packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}))
	mode := func(m os.FileMode) func(*testing.T) string {
		return func(t *testing.T) string {
			name := keep(t, key)
			if err := os.Chmod(name, m); err != nil {
				t.Fatal(err)
			}
			return name
		}
	}
	link := func(to func(*testing.T) string) func(*testing.T) string {
		return func(t *testing.T) string {
			name := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(to(t), name); err != nil {
				t.Fatal(err)
			}
			return name
		}
	}
	pipe := func(t *testing.T) string {
		name := filepath.Join(t.TempDir(), "pipe")
		if err := syscall.Mkfifo(name, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	tests := map[string]struct {
		file func(*testing.T) string
		good bool
	}{
		"0600":                   {mode(0o600), true},
		"0400":                   {mode(0o400), true},
		"a link to a good one":   {link(mode(0o600)), true},
		"readable by the group":  {mode(0o640), false},
		"writable by the group":  {mode(0o620), false},
		"readable by all":        {mode(0o604), false},
		"executable by all":      {mode(0o601), false},
		"a link to one for all":  {link(mode(0o644)), false},
		"a named pipe":           {pipe, false},
		"a link to a named pipe": {link(pipe), false},
		"a directory":            {func(t *testing.T) string { return t.TempDir() }, false},
		"a device":               {func(*testing.T) string { return "/dev/zero" }, false},
		"nothing":                {func(t *testing.T) string { return filepath.Join(t.TempDir(), "none") }, false},
		"a large one":            {func(t *testing.T) string { return keep(t, append(bytes.Repeat([]byte{'\n'}, 1<<20), key...)) }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for as, o := range map[string]openpgp.Options{
				"the key file": {KeyFile: tt.file(t)}, "the passphrase file": {KeyFile: keep(t, key), PassphraseFile: tt.file(t)},
			} {
				s, err := openpgp.Load(o)
				if tt.good != (err == nil) || err != nil && !fault.Is(err, fault.Invalid) {
					t.Errorf("as %s: %v, %v, want good: %v", as, s, err, tt.good)
				}
			}
		})
	}
	for name, content := range map[string]string{
		"nothing": "", "a text": "hello", "a message": "-----BEGIN PGP MESSAGE-----\n\naGVsbG8=\n-----END PGP MESSAGE-----\n",
		"an empty armor": "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n-----END PGP PRIVATE KEY BLOCK-----\n",
	} {
		if s, err := openpgp.Load(openpgp.Options{KeyFile: keep(t, []byte(content))}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

// TestFilesOfServiceManagers reads, as another user, a file of root's that a group may read, as systemd and Kubernetes hand them out.
func TestFilesOfServiceManagers(t *testing.T) {
	const nobody = 65534
	if name := os.Getenv("COUNTERSIGN_TEST_KEY"); name != "" { // the other user
		if s, err := openpgp.Load(openpgp.Options{KeyFile: name}); err != nil {
			t.Errorf("Load = %v, %v", s, err)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can make a file of root's")
	}
	name := keep(t, secretOf(t, newEntity(t, packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})))
	for dir := filepath.Dir(name); dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for mode, good := range map[os.FileMode]bool{0o440: true, 0o640: true, 0o660: false, 0o444: false} {
		if err := errors.Join(os.Chown(name, 0, nobody), os.Chmod(name, mode)); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestFilesOfServiceManagers$")
		cmd.Dir = "/"
		cmd.Env = []string{"COUNTERSIGN_TEST_KEY=" + name}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		if out, err := cmd.CombinedOutput(); good != (err == nil) || !good && !bytes.Contains(out, []byte("others than its owner")) {
			t.Errorf("with the mode %04o: %v, want good: %v\n%s", mode, err, good, out)
		}
	}
}

// TestNothingPrintsTheKey prints a signer in every way that logs and errors do.
func TestNothingPrintsTheKey(t *testing.T) {
	t.Parallel()
	s := load(t, openpgp.Options{KeyFile: keep(t, secretOf(t, newEntity(t, packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048})))})
	want := "OpenPGP key " + s.Fingerprint()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
		if got := fmt.Sprintf(verb, s); got != want {
			t.Errorf("%s prints %q, want %q", verb, got, want)
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).InfoContext(t.Context(), "loaded", slog.Any("key", s))
	if !strings.Contains(log.String(), want) || log.Len() > 200 {
		t.Errorf("the log has %s", log.String())
	}
}

func TestExpiryWhileLoaded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, err := pgp.NewEntity("Test", "", "t@example.com", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Time: time.Now, KeyLifetimeSecs: 3600})
		if err != nil {
			t.Fatal(err)
		}
		s := load(t, openpgp.Options{KeyFile: keep(t, secretOf(t, e))})
		if _, err := s.Sign(t.Context(), signtest.Request("a/b:1", "{}")); err != nil {
			t.Errorf("Sign = %v", err)
		}
		time.Sleep(2 * time.Hour)
		_, err = s.Sign(t.Context(), signtest.Request("a/b:1", "{}"))
		if f, ok := errors.AsType[*fault.Error](err); !ok || f.Msg != "The key cannot be used: it has expired." || !errors.Is(err, openpgp.ErrNotValid) {
			t.Errorf("Sign = %v, want ErrNotValid", err)
		}
	})
}

// TestCache loads a key anew when its file has changed, and only then.
func TestCache(t *testing.T) {
	t.Parallel()
	first := secretOf(t, newEntity(t, packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}))
	second := secretOf(t, newEntity(t, packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}))
	var c openpgp.Cache
	o := openpgp.Options{KeyFile: keep(t, first)}
	get := func() *openpgp.Signer {
		t.Helper()
		s, err := c.Load(o)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a := get()
	if get() != a {
		t.Error("an unchanged key was loaded again")
	}
	if err := os.Rename(keep(t, second), o.KeyFile); err != nil {
		t.Fatal(err)
	}
	b := get()
	if b.Fingerprint() == a.Fingerprint() {
		t.Error("a changed file gave the old key")
	}
	if err := os.Chmod(o.KeyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if s, err := c.Load(o); !fault.Is(err, fault.Invalid) {
			t.Errorf("with a file that all may read: %v, %v", s, err)
		}
	}
	if err := os.Remove(o.KeyFile); err != nil {
		t.Fatal(err)
	}
	if s, err := c.Load(o); !errors.Is(err, os.ErrNotExist) || !fault.Is(err, fault.Invalid) {
		t.Errorf("without a file: %v, %v", s, err)
	}
	if err := os.Rename(keep(t, first), o.KeyFile); err != nil {
		t.Fatal(err)
	}
	if s := get(); s.Fingerprint() != a.Fingerprint() {
		t.Error("the file is back, and its key is not")
	}
}

// FuzzLoad reads files as keys. What is taken for one signs, and its own public key verifies it.
func FuzzLoad(f *testing.F) {
	for _, c := range []packet.Config{
		{Algorithm: packet.PubKeyAlgoEdDSA}, {Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP256}, {Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048},
		{V6Keys: true, Algorithm: packet.PubKeyAlgoEd25519},
	} {
		e := newEntity(f, c)
		text := secretOf(f, e)
		block, err := armor.Decode(bytes.NewReader(text))
		if err != nil {
			f.Fatal(err)
		}
		binary, err := io.ReadAll(block.Body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
		f.Add(binary)
		f.Add(binary[:len(binary)/2])
	}
	f.Add([]byte("-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n=AAAA\n-----END PGP PRIVATE KEY BLOCK-----\n"))
	name := filepath.Join(f.TempDir(), "key")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openpgp.Load(openpgp.Options{KeyFile: name})
		if err != nil {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("Load = %v, want Invalid", err)
			}
			return
		}
		if _, err := signing.NewChecked(s, s.Public()).Sign(t.Context(), signtest.Request("a/b:1", "{}")); err != nil {
			t.Errorf("a key was taken that does not sign: %v", err)
		}
	})
}
