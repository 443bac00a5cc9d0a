//go:build cgo

package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
)

// PINs of the tests' tokens.
const (
	userPIN  = "4711-user"
	wrongPIN = "0815-wrong"
)

// softHSM is prepared by TestMain, since SoftHSM reads its environment once and finds tokens when it starts.
var softHSM struct {
	module, skip string
	dir          string // directory of the tokens
}

// testTokens are the tokens of the tests, with their keys by label.
var testTokens = map[string]map[string]func() (crypto.Signer, error){
	"main": {
		"rsa 2048": rsaKey(2048), "rsa 4096": rsaKey(4096), "p256": ecKey(elliptic.P256()), "p384": ecKey(elliptic.P384()),
		"p521": ecKey(elliptic.P521()), "weak": rsaKey(1024), "p224": ecKey(elliptic.P224()),
	},
	"gone":  {"key": ecKey(elliptic.P256())},
	"pin":   {"key": ecKey(elliptic.P256())},
	"stuck": {"key": ecKey(elliptic.P256())},
	"odd":   {"p256": ecKey(elliptic.P256()), "rsa 2048": rsaKey(2048)},
}

func rsaKey(bits int) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, bits) }
}

func ecKey(c elliptic.Curve) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return ecdsa.GenerateKey(c, rand.Reader) }
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "countersign-pkcs11-")
	if err == nil {
		err = prepare(dir)
	}
	code := 1
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	} else {
		code = m.Run()
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func prepare(dir string) error {
	for _, file := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"} {
		if _, err := os.Stat(file); err == nil {
			softHSM.module = file
		}
	}
	if _, err := exec.LookPath("softhsm2-util"); err != nil || softHSM.module == "" {
		softHSM.skip = "SoftHSM2 is not installed"
		return nil
	}
	softHSM.dir = filepath.Join(dir, "tokens")
	if err := os.Mkdir(softHSM.dir, 0o700); err != nil {
		return err
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+softHSM.dir+"\nlog.level = ERROR\n"), 0o600); err != nil {
		return err
	}
	if err := os.Setenv("SOFTHSM2_CONF", conf); err != nil {
		return err
	}
	for name, keys := range testTokens {
		if err := util("--init-token", "--free", "--label", name, "--so-pin", "so-"+userPIN, "--pin", userPIN); err != nil {
			return err
		}
		id := 0
		for label, generate := range keys {
			id++
			if err := importKey(dir, name, label, id, generate); err != nil {
				return err
			}
		}
	}
	return nil
}

func importKey(dir, token, label string, id int, generate func() (crypto.Signer, error)) error {
	key, err := generate()
	if err != nil {
		return err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600); err != nil {
		return err
	}
	return util("--import", file, "--token", token, "--label", label, "--id", fmt.Sprintf("%02X", id), "--pin", userPIN)
}

func util(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "softhsm2-util", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("softhsm2-util %s: %w: %s", args[0], err, out)
	}
	return nil
}

// uri returns the URI of a key with a new PIN file.
func uri(t *testing.T, token, object, pin string) string {
	t.Helper()
	if softHSM.skip != "" {
		t.Skip(softHSM.skip)
	}
	file := filepath.Join(t.TempDir(), "pin")
	writePIN(t, file, pin)
	return uriOf(token, object, file)
}

func uriOf(token, object, file string) string {
	return fmt.Sprintf("pkcs11:token=%s;object=%s?module-path=%s&pin-source=file:%s", token, strings.ReplaceAll(object, " ", "%20"), softHSM.module, file)
}

func writePIN(t *testing.T, file, pin string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(pin+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// open returns a signer with a new OpenPGP public key for the key of the URI.
func open(t *testing.T, uri string, wait time.Duration) (*Signer, signing.PublicKey) {
	t.Helper()
	armored, err := NewPublicKey(t.Context(), uri, "Release key <release@example.com>")
	if err != nil {
		t.Fatal(err)
	}
	public, err := signing.ParsePublicKey(armored)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{URI: uri, PublicKey: armored, Creator: "test", Wait: wait})
	if err != nil {
		t.Fatal(err)
	}
	return s, public
}

func TestSuite(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"rsa 2048", "p256"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			signtest.Run(t, func(t *testing.T) (signing.Signer, signing.PublicKey) {
				return open(t, uri(t, "main", key, userPIN), 10*time.Second)
			})
		})
	}
}

func TestClientsVerify(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"rsa 2048", "rsa 4096", "p256", "p384", "p521"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			s, _ := open(t, uri(t, "main", key, userPIN), 10*time.Second)
			manifest := `{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}`
			raw, err := s.Sign(t.Context(), signtest.Request("localhost:5000/suite/app:1", manifest))
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			write(t, filepath.Join(dir, "sig"), raw)
			write(t, filepath.Join(dir, "key.asc"), []byte(s.o.PublicKey))
			write(t, filepath.Join(dir, "manifest"), []byte(manifest))
			home := filepath.Join(dir, "gnupg")
			if err := os.Mkdir(home, 0o700); err != nil {
				t.Fatal(err)
			}
			fingerprint := fmt.Sprintf("%X", s.entity.PrimaryKey.Fingerprint)
			run(t, home, "gpg", "--batch", "--no-autostart", "--import", filepath.Join(dir, "key.asc"))
			got := run(t, home, "gpg", "--batch", "--no-autostart", "--status-fd", "1", "--trust-model", "always", "--decrypt", filepath.Join(dir, "sig"))
			if !strings.Contains(got, "VALIDSIG "+fingerprint) {
				t.Errorf("gpg reports %s", got)
			}
			got = run(t, home, "skopeo", "standalone-verify", filepath.Join(dir, "manifest"), "localhost:5000/suite/app:1", fingerprint, filepath.Join(dir, "sig"))
			if !strings.Contains(got, "erified") {
				t.Errorf("skopeo reports %s", got)
			}
		})
	}
}

// run runs a program with a GnuPG home and returns its output.
func run(t *testing.T, home, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skip(name + " is not installed")
	}
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+home)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return string(out)
}

func write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestThousandSignaturesEightAtATimeWithTwoKeys(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pin")
	_ = uri(t, "main", "p256", userPIN)
	writePIN(t, file, userPIN)
	var keys [2]*signing.Checked
	for i, label := range []string{"p256", "rsa 2048"} {
		s, public := open(t, uriOf("main", label, file), 10*time.Second)
		keys[i] = signing.NewChecked(s, public)
	}
	var wg sync.WaitGroup
	start := time.Now()
	for worker := range 8 {
		wg.Go(func() {
			for i := range 125 {
				r := signtest.Request(fmt.Sprintf("localhost:5000/many/app:%d-%d", worker, i), "{}")
				if _, err := keys[i%2].Sign(t.Context(), r); err != nil {
					t.Errorf("Sign(%d, %d) = %v", worker, i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("1,000 signatures in %v", time.Since(start))
}

// TestKeysThatCannotSign is not parallel, as TestTokenRemovedAndInserted.
func TestKeysThatCannotSign(t *testing.T) {
	for name, c := range map[string]struct {
		uri  string
		kind fault.Kind
		want string
	}{
		"no such token": {uri: uri(t, "nobody", "key", userPIN), kind: fault.Unavailable, want: "The token is not there"},
		"no such key":   {uri: uri(t, "main", "nothing", userPIN), kind: fault.Unavailable, want: "no such private key"},
		"a small key":   {uri: uri(t, "main", "weak", userPIN), kind: fault.Invalid, want: "1024 bits"},
		"a wrong curve": {uri: uri(t, "main", "p224", userPIN), kind: fault.Invalid, want: "another curve"},
		"no library":    {uri: "pkcs11:token=main;object=p256?module-path=/nonexistent/lib.so", kind: fault.Invalid, want: "cannot be loaded"},
		"no PIN file":   {uri: uriOf("main", "p256", "/nonexistent/pin"), kind: fault.Invalid, want: "PIN file cannot be read"},
		"no PIN":        {uri: uri(t, "main", "p256", ""), kind: fault.Invalid, want: "first line of the PIN file is empty"},
		"no login":      {uri: fmt.Sprintf("pkcs11:token=pin;object=none?module-path=%s", softHSM.module), kind: fault.Unavailable, want: "no such private key"},
	} {
		_, err := NewPublicKey(t.Context(), c.uri, "Release key <release@example.com>")
		if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: NewPublicKey = %v, want %q", name, err, c.want)
		}
	}
	open := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(open, []byte(userPIN), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := NewPublicKey(t.Context(), uriOf("main", "p256", open), "A <a@example.com>"); !fault.Is(err, fault.Invalid) {
		t.Errorf("NewPublicKey with a PIN file that others can read = %v", err)
	}
	if _, err := NewPublicKey(t.Context(), uri(t, "main", "p256", userPIN), "nobody"); !fault.Is(err, fault.Invalid) {
		t.Errorf("NewPublicKey with an invalid user id = %v", err)
	}
}

func TestPublicKeyOfAnotherKey(t *testing.T) {
	t.Parallel()
	s, _ := open(t, uri(t, "main", "p256", userPIN), 0)
	other, err := New(Options{URI: uri(t, "main", "p384", userPIN), PublicKey: s.o.PublicKey})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Sign(t.Context(), signtest.Request("localhost:5000/suite/app:1", "{}")); !fault.Is(err, fault.Invalid) {
		t.Errorf("Sign with another key's public key = %v, want Invalid", err)
	}
}

func TestTwoPINsForOneToken(t *testing.T) {
	t.Parallel()
	s, _ := open(t, uri(t, "main", "p256", userPIN), 0)
	if err := s.Usable(); err != nil {
		t.Fatal(err)
	}
	if _, err := NewPublicKey(t.Context(), uri(t, "main", "p256", wrongPIN), "A <a@example.com>"); !fault.Is(err, fault.Invalid) {
		t.Errorf("NewPublicKey with a wrong PIN during a login = %v, want Invalid", err)
	}
}

func TestPINIsHidden(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"%v", "%s", "%#v", "%+v"} {
		if got := fmt.Sprintf(verb, []any{secret("4711")}); strings.Contains(got, "4711") {
			t.Errorf("%s prints %s", verb, got)
		}
	}
}
