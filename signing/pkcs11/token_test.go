//go:build cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
)

// PINs of the tests' tokens.
const (
	userPIN  = "4711-user"
	wrongPIN = "0815-wrong"
)

// softHSM is what TestMain has prepared: SoftHSM looks for tokens when it starts, and reads its environment once.
var softHSM struct {
	module, skip string
	dir          string // tokens are below it
}

// tokens of the tests, with their keys by label.
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

// uri returns the URI of a key, with a PIN file of its own.
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

// open returns a signer with a public key that is made for it.
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
				t.Errorf("gpg says %s", got)
			}
			got = run(t, home, "skopeo", "standalone-verify", filepath.Join(dir, "manifest"), "localhost:5000/suite/app:1", fingerprint, filepath.Join(dir, "sig"))
			if !strings.Contains(got, "erified") {
				t.Errorf("skopeo says %s", got)
			}
		})
	}
}

// run returns what a program prints that uses this GnuPG home.
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

// Not beside others: it has the library started anew, which the tests with a wrapped one do not know of. Hostile input 40.
func TestTheTokenGoesAndComesBack(t *testing.T) {
	s, public := open(t, uri(t, "gone", "key", userPIN), time.Minute)
	checked := signing.NewChecked(s, public)
	r := signtest.Request("localhost:5000/gone/app:1", "{}")
	if _, err := checked.Sign(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	dir := tokenDir(t, "gone")
	aside := filepath.Join(filepath.Dir(softHSM.dir), "aside")
	rename(t, dir, aside)
	impatient := *signing.NewChecked(&Signer{key: s.key, entity: s.entity, o: Options{Creator: "test"}}, public)
	if _, err := impatient.Sign(t.Context(), r); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Sign without the token = %v, want Unavailable", err)
	}
	if err := s.Usable(); err == nil {
		t.Error("the signer is usable without its token")
	}
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 2)
	go func() { _, err := checked.Sign(ctx, r); waiting <- err }()
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("Sign that was canceled while it waited = %v", err)
	}
	for range 2 {
		go func() { _, err := checked.Sign(t.Context(), r); waiting <- err }()
	}
	select {
	case err := <-waiting:
		t.Errorf("Sign did not wait for the token: %v", err)
	case <-time.After(time.Second):
	}
	rename(t, aside, dir)
	for range 2 {
		if err := <-waiting; err != nil {
			t.Errorf("Sign after the token came back = %v", err)
		}
	}
	if err := s.Usable(); err != nil {
		t.Errorf("the signer is not usable with its token: %v", err)
	}
}

// tokenDir returns SoftHSM's directory of a token: the one in whose files its label is.
func tokenDir(t *testing.T, label string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(softHSM.dir, "*", "token.object"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, []byte(fmt.Sprintf("%-32s", label))) {
			return filepath.Dir(f)
		}
	}
	t.Fatalf("no directory of token %s", label)
	return ""
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// wrapped is SoftHSM with something in front of some calls.
type wrapped struct {
	cryptoki
	logins func()     // before each login
	sign   func(uint) // before each signature, with the slot
	flags  uint       // that the token has too
	mu     sync.Mutex
	slots  map[pkcs11.SessionHandle]uint
}

func (w *wrapped) GetTokenInfo(slot uint) (i pkcs11.TokenInfo, err error) {
	if w.cryptoki != nil {
		i, err = w.cryptoki.GetTokenInfo(slot)
	}
	i.Flags |= w.flags
	return i, err
}

func (w *wrapped) Login(s pkcs11.SessionHandle, user uint, pin string) error {
	if w.logins != nil {
		w.logins()
	}
	return w.cryptoki.Login(s, user, pin)
}

func (w *wrapped) OpenSession(slot, flags uint) (pkcs11.SessionHandle, error) {
	s, err := w.cryptoki.OpenSession(slot, flags)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slots[s] = slot
	return s, err
}

func (w *wrapped) Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error) {
	w.mu.Lock()
	slot := w.slots[s]
	w.mu.Unlock()
	if w.sign != nil {
		w.sign(slot)
	}
	return w.cryptoki.Sign(s, message)
}

// Initialize takes the library as the process has it.
func (w *wrapped) Initialize(...pkcs11.InitializeOption) error {
	if err := w.cryptoki.Initialize(); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return err
	}
	return nil
}

// Finalize leaves it to the tests beside.
func (w *wrapped) Finalize() error { return nil }

// wrap returns a key whose token's library is SoftHSM behind w. It has a login, sessions and a start of its own.
func wrap(t *testing.T, text string, w *wrapped) *key {
	t.Helper()
	u, err := ParseURI(text)
	if err != nil {
		t.Fatal(err)
	}
	w.slots = map[pkcs11.SessionHandle]uint{}
	m := newModule(u.Module, func(path string) cryptoki {
		w.cryptoki = loadLibrary(path)
		return w
	})
	return &key{uri: u, token: &token{uri: u, mod: m}}
}

// TestAWrongPINIsTriedOnce: a wrong PIN must not lock the token. Hostile input 40.
func TestAWrongPINIsTriedOnce(t *testing.T) {
	t.Parallel()
	text := uri(t, "pin", "key", wrongPIN)
	var tries atomic.Int32
	k := wrap(t, text, &wrapped{logins: func() { tries.Add(1) }})
	for i := range 10 {
		if _, err := k.sign(t.Context(), time.Minute, crypto.SHA256, make([]byte, 32)); !fault.Is(err, fault.Invalid) {
			t.Fatalf("sign %d with a wrong PIN = %v, want Invalid", i, err)
		}
		k.token.mu.Lock()
		k.token.next = time.Time{} // as if time had passed
		k.token.mu.Unlock()
	}
	if err := k.usable(); err == nil {
		t.Error("the key is usable with a wrong PIN")
	}
	if got := tries.Load(); got != 1 {
		t.Errorf("the token was asked %d times to check a wrong PIN, want once", got)
	}
	writePIN(t, k.uri.PINFile, userPIN)
	k.token.mu.Lock()
	k.token.next = time.Time{}
	k.token.mu.Unlock()
	if _, err := k.sign(t.Context(), 0, crypto.SHA256, make([]byte, 32)); err != nil {
		t.Errorf("sign with the PIN put right = %v", err)
	}
	if got := tries.Load(); got != 2 {
		t.Errorf("the token was asked %d times to check a PIN, want twice", got)
	}
}

// TestTheLastTryIsLeftToPeople: nor may a PIN that was wrong in other processes. Hostile input 40.
func TestTheLastTryIsLeftToPeople(t *testing.T) {
	t.Parallel()
	for _, flag := range []uint{pkcs11.CKF_USER_PIN_FINAL_TRY, pkcs11.CKF_USER_PIN_LOCKED} {
		w := &wrapped{logins: func() { t.Error("the token was asked to check a PIN") }, flags: flag}
		k := wrap(t, uri(t, "pin", "key", userPIN), w)
		err := k.token.login(w, 0, 0, userPIN)
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("login with flag %x = %v, want Invalid", flag, err)
		}
	}
}

// TestAStuckTokenKeepsNobodyWaiting: a token that does not answer holds up neither other tokens nor whoever asks it. Hostile input 40.
func TestAStuckTokenKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	stuck, release := make(chan struct{}), make(chan struct{})
	var slot atomic.Uint64
	w := &wrapped{sign: func(s uint) {
		if uint64(s) == slot.Load() {
			select {
			case stuck <- struct{}{}:
			default:
			}
			<-release
		}
	}}
	k := wrap(t, uri(t, "stuck", "key", userPIN), w)
	other := &key{uri: k.uri, token: &token{mod: k.token.mod}}
	other.uri.Token, other.uri.Object, other.token.uri = "main", "p256", other.uri
	other.token.uri.Token = "main"
	c, err := k.token.connection(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slot.Store(uint64(c.slot))
	k.token.mod.callTimeout = 500 * time.Millisecond

	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := k.sign(ctx, time.Hour, crypto.SHA256, make([]byte, 32))
		failed <- err
	}()
	<-stuck
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("sign that was canceled in the token = %v", err)
	}
	for i := range 2 * maxAbandoned {
		if _, err := k.sign(t.Context(), 0, crypto.SHA256, make([]byte, 32)); !fault.Is(err, fault.Unavailable) {
			t.Errorf("sign %d with the stuck token = %v, want Unavailable", i, err)
		}
		if _, err := other.sign(t.Context(), time.Minute, crypto.SHA256, make([]byte, 32)); err != nil {
			t.Errorf("sign %d with the other token = %v", i, err)
		}
	}
	k.token.mod.mu.Lock()
	lost, active := k.token.abandoned, k.token.mod.active
	k.token.mod.mu.Unlock()
	if lost > maxAbandoned || active > maxAbandoned {
		t.Errorf("%d calls are lost and %d in the library, want %d at most", lost, active, maxAbandoned)
	}
	if err := k.usable(); err == nil {
		t.Error("the stuck key is usable")
	}
	close(release)
	if _, err := k.sign(t.Context(), time.Minute, crypto.SHA256, make([]byte, 32)); err != nil {
		t.Errorf("sign after the token came to = %v", err)
	}
}

// Not beside others: it has the library started anew, which the tests with a wrapped one do not know of.
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
		"no PIN at all": {uri: fmt.Sprintf("pkcs11:token=pin;object=none?module-path=%s", softHSM.module), kind: fault.Unavailable, want: "no such private key"},
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
		t.Errorf("NewPublicKey with a PIN file that all may read = %v", err)
	}
	if _, err := NewPublicKey(t.Context(), uri(t, "main", "p256", userPIN), "nobody"); !fault.Is(err, fault.Invalid) {
		t.Errorf("NewPublicKey for nobody = %v", err)
	}
}

func TestAnotherKeysPublicKeyIsRefused(t *testing.T) {
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
		t.Errorf("a wrong PIN while somebody is logged in = %v, want Invalid", err)
	}
}

func TestAPINDoesNotPrint(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"%v", "%s", "%#v", "%+v"} {
		if got := fmt.Sprintf(verb, []any{secret("4711")}); strings.Contains(got, "4711") {
			t.Errorf("%s prints %s", verb, got)
		}
	}
}
