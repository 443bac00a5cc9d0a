package integration

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/signing"
)

const tokenPIN = "4711-user"

// softToken is a SoftHSM with one token.
type softToken struct {
	conf, dir, module, pin string // pin is a file
}

// newToken creates a token with an ECDSA key, "ec", and a slow RSA key, "rsa".
func newToken(t *testing.T) *softToken {
	t.Helper()
	need(t, "softhsm2-util")
	dir := t.TempDir()
	h := &softToken{pin: write(t, filepath.Join(dir, "pin"), tokenPIN+"\n", 0o600)}
	for _, file := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"} {
		if _, err := os.Stat(file); err == nil {
			h.module = file
		}
	}
	if h.module == "" {
		t.Skip("SoftHSM's library is not where this test looks")
	}
	tokens := filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	h.conf = write(t, filepath.Join(dir, "softhsm2.conf"), "directories.tokendir = "+tokens+"\nlog.level = ERROR\n", 0o600)
	env := environment(dir, h.env())
	must(t, env, "softhsm2-util", "--init-token", "--free", "--label", "release", "--so-pin", "so-"+tokenPIN, "--pin", tokenPIN)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	slow, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		t.Fatal(err)
	}
	for i, key := range []crypto.Signer{ec, slow} {
		raw, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		file := write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})), 0o600)
		must(t, env, "softhsm2-util", "--import", file, "--token", "release", "--label", []string{"ec", "rsa"}[i], "--id", fmt.Sprintf("0%d", i+1), "--pin", tokenPIN)
	}
	found, err := filepath.Glob(filepath.Join(tokens, "*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("SoftHSM's tokens: %v, %v", found, err)
	}
	h.dir = found[0]
	return h
}

func (h *softToken) env() string { return "SOFTHSM2_CONF=" + h.conf }

func (h *softToken) uri(key string) string {
	return fmt.Sprintf("pkcs11:token=release;object=%s;type=private?module-path=%s&pin-source=file:%s", key, h.module, h.pin)
}

// away removes the token, or restores it.
func (h *softToken) away(t *testing.T, away bool) {
	t.Helper()
	aside := filepath.Join(filepath.Dir(h.conf), "aside")
	from, to := h.dir, aside
	if !away {
		from, to = aside, h.dir
	}
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// addTokenService adds a signing service and returns its href and its key, imported into gpg.
func (s *server) addTokenService(t *testing.T, name string, arguments ...string) (string, *key) {
	t.Helper()
	said, err := s.cli(t, nil, append([]string{"add-signing-service", name}, arguments...)...)
	if err != nil && strings.Contains(said, "made without cgo") {
		t.Skip("the server under test was built without cgo")
	}
	if err != nil || !strings.Contains(said, "Successfully added signing service "+name+" for key ") {
		t.Fatalf("add-signing-service: %v\n%s", err, said)
	}
	found := s.list(t, signingServices+"?name="+name).Results
	if len(found) != 1 {
		t.Fatalf("the signing service is %v", found)
	}
	k := keyHome(t)
	k.fingerprint = text(found[0]["pubkey_fingerprint"])
	write(t, k.public, text(found[0]["public_key"]), 0o600)
	k.run(t, "--import", k.public)
	return text(found[0]["pulp_href"]), k
}

// countSigned counts the images with one signature by a key, with concurrent requests.
func countSigned(t *testing.T, s *server, k *key, name string, images []pushed) int {
	t.Helper()
	public := publicKey(t, k)
	found := make([]bool, len(images))
	var readers sync.WaitGroup
	for reader := range 8 {
		readers.Go(func() {
			for i := reader; i < len(images); i += 8 {
				n := 0
				for _, one := range s.signatures(t, name, images[i].name) {
					v, err := signing.Verify(one.Content, public, time.Now())
					if err == nil && v.Claim().DockerReference == s.host+"/"+name+":"+images[i].tag {
						n++
					}
				}
				found[i] = n == 1
			}
		})
	}
	readers.Wait()
	n := 0
	for _, one := range found {
		if one {
			n++
		}
	}
	return n
}

// TestTokens signs 1,000 tags with one key of a token, and other tags with its second key while the token is removed in
// the middle of the task.
//
// See hostile-inputs.md#failing-hardware-keys.
func TestTokens(t *testing.T) {
	h := newToken(t)
	s := startServer(t, h.env(), "COUNTERSIGN_SIGNING_PARALLEL=8", "COUNTERSIGN_WORKERS=1", "COUNTERSIGN_SIGNING_TOKEN_WAIT=1s")
	ec, ecKey := s.addTokenService(t, "ec", "--pkcs11-uri", h.uri("ec"), "--user-id", "Release key <release@example.com>")
	slow, slowKey := s.addTokenService(t, "rsa", "--pkcs11-uri", h.uri("rsa"), "--user-id", "Slow key <slow@example.com>")
	if _, again := s.addTokenService(t, "again", "--pkcs11-uri", h.uri("ec"), "--public-key", ecKey.public); again.fingerprint != ecKey.fingerprint {
		t.Errorf("with its public key the key is %s, want %s", again.fingerprint, ecKey.fingerprint)
	}
	if said, err := s.cli(t, nil, "add-signing-service", "wrong", "--pkcs11-uri", h.uri("rsa"), "--public-key", ecKey.public); err == nil {
		t.Errorf("with another key's public key: %s", said)
	}
	images := pushMany(t, s, "hard/ware")
	if t.Failed() {
		return
	}
	repository := text(s.repository(t, "hard/ware")["pulp_href"])
	began := time.Now()
	s.signed(t, repository, object{"manifest_signing_service": ec})
	t.Logf("%d tags signed in %v", len(images), time.Since(began))
	if n := countSigned(t, s, ecKey, "hard/ware", images); n != len(images) {
		t.Errorf("%d of %d images are signed", n, len(images))
	}
	one := s.signatures(t, "hard/ware", images[0].name)
	standaloneVerify(t, s, ecKey, "hard/ware", images[0].name, images[0].tag, one[0])
	ecKey.run(t, "--verify", write(t, filepath.Join(t.TempDir(), "signature"), string(one[0].Content), 0o600))

	task := s.sign(t, repository, object{"manifest_signing_service": slow})
	within(t, "the task has made signatures", func() bool { return progressOf(s.get(t, task)) > 0 })
	h.away(t, true)
	within(t, "status says that no process can use the token", func() bool { return s.usableBy(t, "rsa")+s.usableBy(t, "ec") == 0 })
	within(t, "the task waits", func() bool { return s.get(t, task)["state"] == "waiting" })
	queued := s.sign(t, repository, object{"manifest_signing_service": ec, "force": true})
	// Other tasks do not wait for the token, although there is one worker.
	k := keyHome(t)
	k.generate(t, "ed25519", "")
	file := s.addKeyService(t, "file", k, "--openpgp-key", k.secret(t, ""))
	if _, err := s.pushTiny(t, "soft/ware", "1.0", "a push beside the token"); err != nil {
		t.Errorf("push while the token is unavailable: %v", err)
	}
	s.signed(t, text(s.repository(t, "soft/ware")["pulp_href"]), object{"manifest_signing_service": file})
	if state := s.get(t, queued)["state"]; state != "waiting" {
		t.Errorf("without the token a new task is %v, want waiting", state)
	}
	h.away(t, false)
	for _, href := range []string{task, queued} {
		if done := s.finished(t, href); done["state"] != "completed" {
			t.Errorf("with the token back: %v", done)
		}
	}
	if n := countSigned(t, s, slowKey, "hard/ware", images); n != len(images) {
		t.Errorf("%d of %d images are signed by the key whose token was away", n, len(images))
	}
}

// progressOf returns the number of finished items in the progress reports of a task.
func progressOf(task object) (done float64) {
	reports, _ := task["progress_reports"].([]any)
	for _, r := range reports {
		if report, is := r.(object); is {
			n, _ := report["done"].(float64)
			done += n
		}
	}
	return done
}

// TestTokensPIN starts with a wrong PIN: tasks wait, and the log gives the reason without the PIN. After the PIN is
// corrected, they run. See hostile-inputs.md#failing-hardware-keys.
func TestTokensPIN(t *testing.T) {
	t.Parallel()
	h := newToken(t)
	s := startServer(t, h.env())
	service, k := s.addTokenService(t, "ec", "--pkcs11-uri", h.uri("ec"), "--user-id", "Release key <release@example.com>")
	image, err := s.pushTiny(t, "hard/pin", "1.0", "a wrong PIN")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	write(t, h.pin, "0815-wrong\n", 0o600)
	if said, err := s.cli(t, nil, "add-signing-service", "wrong", "--pkcs11-uri", h.uri("ec"), "--public-key", k.public); err == nil || !strings.Contains(said, "refuses the PIN") {
		t.Errorf("add-signing-service with a wrong PIN: %v, %s", err, said)
	}
	s.start(t)
	within(t, "the log says why", func() bool { return strings.Contains(s.LogTail(), "The token refuses the PIN: ") })
	task := s.sign(t, text(s.repository(t, "hard/pin")["pulp_href"]), object{"manifest_signing_service": service})
	within(t, "the PIN is not tried again", func() bool {
		return strings.Contains(s.LogTail(), "it is not tried again before the PIN file is changed")
	})
	if state := s.get(t, task)["state"]; state != "waiting" {
		t.Errorf("with a wrong PIN the task is %v, want waiting", state)
	}
	write(t, h.pin, tokenPIN+"\n", 0o600)
	if done := s.finished(t, task); done["state"] != "completed" {
		t.Errorf("with the PIN put right: %v", done)
	}
	if n := countSigned(t, s, k, "hard/pin", []pushed{image}); n != 1 {
		t.Error("the image is not signed")
	}
	files, err := filepath.Glob(filepath.Join(s.data, "countersign.db*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, s.command.Log) {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, []byte(tokenPIN)) || bytes.Contains(raw, []byte("0815-wrong")) {
			t.Errorf("%s holds a PIN", file)
		}
	}
}

// TestWithoutCgo builds Countersign without cgo: it serves, and reports that it cannot use tokens.
func TestWithoutCgo(t *testing.T) {
	t.Parallel()
	root, err := process.ModuleRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "countersign")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, ".") // most packages are in the build cache
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build without cgo: %v\n%s", err, said)
	}
	s := startServer(t)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s.command.Program = program
	s.start(t)
	if status, _, _ := s.do(t, http.MethodGet, "/v2/", nil, nil); status != http.StatusOK {
		t.Errorf("/v2/ is answered %d", status)
	}
	said, err := s.cli(t, nil, "add-signing-service", "hard", "--pkcs11-uri", "pkcs11:token=a;object=b?module-path=/lib/hsm.so", "--user-id", "A <a@example.com>")
	if err == nil || said != "CommandError: This build of countersign has no PKCS #11: it was made without cgo. Build it with make build CGO_ENABLED=1.\n" {
		t.Errorf("add-signing-service without cgo: %v\n%s", err, said)
	}
}
