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

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/openpgp"
	"github.com/countersign/countersign/signing/signtest"
)

func load(t *testing.T, o openpgp.Options) *openpgp.Signer {
	t.Helper()
	s, err := openpgp.Load(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestKeysOfGnuPG signs with keys of gpg of each supported kind. gpg and skopeo verify the signatures.
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
			checkWithClients(t, s)
			signtest.Run(t, func(*testing.T) (signing.Signer, signing.PublicKey) { return s, s.Public() })
		})
	}
	t.Run("binary, with an encryption subkey", func(t *testing.T) {
		t.Parallel()
		h := newHome(t)
		h.run("--passphrase", "", "--quick-generate-key", "Test <test@example.com>", "default", "default", "never")
		checkWithClients(t, load(t, openpgp.Options{KeyFile: h.export("", "--export-secret-keys")}))
	})
	t.Run("protected", func(t *testing.T) {
		t.Parallel()
		h := newHome(t)
		h.generate("ed25519", "sign", "never", "open sesame")
		key := h.export("open sesame")
		checkWithClients(t, load(t, openpgp.Options{KeyFile: key, PassphraseFile: writeFile(t, []byte("open sesame\r\nmore"))}))
		for _, passphrase := range []string{"open", "", "\nopen sesame"} {
			s, err := openpgp.Load(openpgp.Options{KeyFile: key, PassphraseFile: writeFile(t, []byte(passphrase))})
			if !fault.Is(err, fault.Invalid) || strings.Contains(err.Error(), "sesame") {
				t.Errorf("with the passphrase %q: %v, %v", passphrase, s, err)
			}
		}
		if _, err := openpgp.Load(openpgp.Options{KeyFile: key}); !fault.Is(err, fault.Invalid) {
			t.Errorf("without a passphrase: %v", err)
		}
	})
}

// TestSubkeys proves that the primary key signs if it may, and otherwise the newest valid subkey with a secret part.
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
		checkWithClients(t, s)
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

// TestLoadRejects loads files without exactly one valid key of a supported kind.
func TestLoadRejects(t *testing.T) {
	t.Parallel()
	past := time.Now().Add(-48*time.Hour).UTC().Format("20060102T150405") + "!"
	tests := map[string]struct {
		file     func(h home) string
		want     string // part of the message
		notValid bool
	}{
		"an RSA key of 1024 bits": {file: func(h home) string { h.generate("rsa1024", "sign", "never", ""); return h.export("") }, want: "1024 bits"},
		"a DSA key":               {file: func(h home) string { h.generate("dsa2048", "sign", "never", ""); return h.export("") }, want: "algorithm"},
		"a brainpool key":         {file: func(h home) string { h.generate("brainpoolP256r1", "sign", "never", ""); return h.export("") }, want: "algorithm"},
		"a secp256k1 key":         {file: func(h home) string { h.generate("secp256k1", "sign", "never", ""); return h.export("") }, want: "algorithm"},
		"an expired key": {file: func(h home) string {
			h.generate("ed25519", "sign", "1d", "", "--faked-system-time", past)
			return h.export("")
		}, want: "expired", notValid: true},
		"a revoked key": {file: func(h home) string {
			h.generate("ed25519", "sign", "never", "")
			revocation, err := os.ReadFile(filepath.Join(h.dir, "openpgp-revocs.d", h.fingerprint()+".rev"))
			if err != nil {
				h.t.Fatal(err)
			}
			h.feed(strings.Replace(string(revocation), ":-----BEGIN", "-----BEGIN", 1), "--import")
			return h.export("")
		}, want: "revoked", notValid: true},
		"two keys": {file: func(h home) string {
			h.generate("ed25519", "sign", "never", "")
			h.generate("nistp256", "sign", "never", "")
			return h.export("")
		}, want: "2 keys"},
		"two armors": {file: func(h home) string {
			h.generate("ed25519", "sign", "never", "")
			one := h.run("--armor", "--export-secret-keys")
			return writeFile(h.t, append(one, one...))
		}, want: "several keys"},
		"a public key": {file: func(h home) string {
			h.generate("ed25519", "sign", "never", "")
			return writeFile(h.t, h.run("--armor", "--export"))
		}, want: "public key only"},
		"a binary public key": {file: func(h home) string {
			h.generate("ed25519", "sign", "never", "")
			return writeFile(h.t, h.run("--export"))
		}, want: "public key only"},
		"an incomplete key": {file: func(h home) string {
			h.generate("rsa2048", "sign", "never", "")
			b := h.run("--export-secret-keys")
			return writeFile(h.t, b[:len(b)/2])
		}, want: "cannot be used"},
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

// secretOf returns an entity's secret key as ASCII armor.
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

func TestLoadRejectsNewKinds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]packet.Config{
		"version 6":           {V6Keys: true, Algorithm: packet.PubKeyAlgoEd25519},
		"Ed25519 of RFC 9580": {Algorithm: packet.PubKeyAlgoEd25519},
		"Ed448":               {Algorithm: packet.PubKeyAlgoEd448},
	} {
		if s, err := openpgp.Load(openpgp.Options{KeyFile: writeFile(t, secretOf(t, newEntity(t, c)))}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

// TestFiles proves that key and passphrase files must be regular files that only their owner can access.
func TestFiles(t *testing.T) {
	t.Parallel()
	key := secretOf(t, newEntity(t, packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}))
	mode := func(m os.FileMode) func(*testing.T) string {
		return func(t *testing.T) string {
			name := writeFile(t, key)
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
		"0600":                     {file: mode(0o600), good: true},
		"0400":                     {file: mode(0o400), good: true},
		"a link to a private file": {file: link(mode(0o600)), good: true},
		"readable by the group":    {file: mode(0o640)},
		"writable by the group":    {file: mode(0o620)},
		"readable by all":          {file: mode(0o604)},
		"executable by all":        {file: mode(0o601)},
		"a link to a public file":  {file: link(mode(0o644))},
		"a named pipe":             {file: pipe},
		"a link to a named pipe":   {file: link(pipe)},
		"a directory":              {file: func(t *testing.T) string { return t.TempDir() }},
		"a device":                 {file: func(*testing.T) string { return "/dev/zero" }},
		"a missing file":           {file: func(t *testing.T) string { return filepath.Join(t.TempDir(), "none") }},
		"a large file":             {file: func(t *testing.T) string { return writeFile(t, append(bytes.Repeat([]byte{'\n'}, 1<<20), key...)) }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for use, o := range map[string]openpgp.Options{
				"the key file": {KeyFile: tt.file(t)}, "the passphrase file": {KeyFile: writeFile(t, key), PassphraseFile: tt.file(t)},
			} {
				s, err := openpgp.Load(o)
				if tt.good != (err == nil) || err != nil && !fault.Is(err, fault.Invalid) {
					t.Errorf("%s: %v, %v, want good: %v", use, s, err, tt.good)
				}
			}
		})
	}
	for name, content := range map[string]string{
		"nothing": "", "a text": "hello", "a message": "-----BEGIN PGP MESSAGE-----\n\naGVsbG8=\n-----END PGP MESSAGE-----\n",
		"an empty armor": "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n-----END PGP PRIVATE KEY BLOCK-----\n",
	} {
		if s, err := openpgp.Load(openpgp.Options{KeyFile: writeFile(t, []byte(content))}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

// TestFilesOfServiceManagers loads, as another user, files of root that a group can read. systemd and Kubernetes
// provide such files.
func TestFilesOfServiceManagers(t *testing.T) {
	const nobody = 65534
	if name := os.Getenv("COUNTERSIGN_TEST_KEY"); name != "" { // in the process of the other user
		if s, err := openpgp.Load(openpgp.Options{KeyFile: name}); err != nil {
			t.Errorf("Load = %v, %v", s, err)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("requires root")
	}
	name := writeFile(t, secretOf(t, newEntity(t, packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})))
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
		if out, err := cmd.CombinedOutput(); good != (err == nil) || !good && !bytes.Contains(out, []byte("users other than its owner")) {
			t.Errorf("with the mode %04o: %v, want good: %v\n%s", mode, err, good, out)
		}
	}
}

// TestSignerHidesKey formats a signer with each verb and logs it.
func TestSignerHidesKey(t *testing.T) {
	t.Parallel()
	s := load(t, openpgp.Options{KeyFile: writeFile(t, secretOf(t, newEntity(t, packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048})))})
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
		s := load(t, openpgp.Options{KeyFile: writeFile(t, secretOf(t, e))})
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

// TestCache proves that a key is loaded again when, and only when, its file has changed.
func TestCache(t *testing.T) {
	t.Parallel()
	first := secretOf(t, newEntity(t, packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}))
	second := secretOf(t, newEntity(t, packet.Config{Algorithm: packet.PubKeyAlgoEdDSA}))
	var c openpgp.Cache
	o := openpgp.Options{KeyFile: writeFile(t, first)}
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
	if err := os.Rename(writeFile(t, second), o.KeyFile); err != nil {
		t.Fatal(err)
	}
	b := get()
	if b.Fingerprint() == a.Fingerprint() {
		t.Error("Load returned the old key after the file changed")
	}
	if err := os.Chmod(o.KeyFile, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if s, err := c.Load(o); !fault.Is(err, fault.Invalid) {
			t.Errorf("Load of a file that others can read = %v, %v, want Invalid", s, err)
		}
	}
	if err := os.Remove(o.KeyFile); err != nil {
		t.Fatal(err)
	}
	if s, err := c.Load(o); !errors.Is(err, os.ErrNotExist) || !fault.Is(err, fault.Invalid) {
		t.Errorf("Load of a deleted file = %v, %v, want ErrNotExist", s, err)
	}
	if err := os.Rename(writeFile(t, first), o.KeyFile); err != nil {
		t.Fatal(err)
	}
	if s := get(); s.Fingerprint() != a.Fingerprint() {
		t.Error("Load does not return the key of the restored file")
	}
}

// FuzzLoad loads files. A key that is loaded signs, and its public key verifies the signature.
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
			t.Errorf("Sign with the loaded key = %v", err)
		}
	})
}
