package integration

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/pgtest"
)

// keyHome creates a GnuPG home. Its path is short, because it contains gpg-agent's socket.
func keyHome(t *testing.T) *key {
	t.Helper()
	need(t, "gpg", "gpgconf", "gpg-agent")
	home, err := os.MkdirTemp(shared.dir, "g") //nolint:usetesting // for the reason above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		endAgent(home)
		os.RemoveAll(home)
	})
	return &key{home: home, public: filepath.Join(home, "public.asc")}
}

// run calls gpg, and fails the test if gpg fails.
func (k *key) run(t *testing.T, arguments ...string) string {
	t.Helper()
	said, err := k.gpg(t.Context(), arguments...)
	if err != nil {
		t.Fatal(err)
	}
	return said
}

// generate creates a primary key and stores its public part.
func (k *key) generate(t *testing.T, algorithm, passphrase string) {
	t.Helper()
	k.run(t, "--passphrase", passphrase, "--quick-generate-key", algorithm+" <"+algorithm+"@example.com>", algorithm, "sign", "never")
	for line := range strings.Lines(k.run(t, "--with-colons", "--list-keys")) {
		if fields := strings.Split(line, ":"); fields[0] == "fpr" {
			k.fingerprint, k.id = fields[9], fields[9][24:]
			break
		}
	}
	write(t, k.public, k.run(t, "--armor", "--export", k.fingerprint), 0o600)
}

// secret exports the secret key to a file that only its owner can read.
func (k *key) secret(t *testing.T, passphrase string, arguments ...string) string {
	t.Helper()
	if len(arguments) == 0 {
		arguments = []string{"--armor", "--export-secret-keys", k.fingerprint}
	}
	return write(t, filepath.Join(t.TempDir(), "secret.asc"), k.run(t, append([]string{"--passphrase", passphrase}, arguments...)...), 0o600)
}

// secretParts returns the lines of a key file that are not in the public key, and their decoded bytes.
func (k *key) secretParts(t *testing.T, file string) (parts [][]byte) {
	t.Helper()
	armored, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	public := k.run(t, "--export", k.fingerprint)
	for line := range bytes.Lines(armored) {
		line = bytes.TrimSpace(line)
		raw, err := base64.StdEncoding.AppendDecode(nil, line)
		if len(line) == 64 && err == nil && !strings.Contains(public, string(raw)) {
			parts = append(parts, line, raw)
		}
	}
	if len(parts) == 0 {
		t.Fatal("the key file has nothing that is not in the public key")
	}
	return parts
}

// addKeyService adds a signing service with a key file and returns its href.
func (s *server) addKeyService(t *testing.T, name string, k *key, arguments ...string) string {
	t.Helper()
	said, err := s.cli(t, nil, append([]string{"add-signing-service", name}, arguments...)...)
	if err != nil || !strings.HasSuffix(said, "Successfully added signing service "+name+" for key "+k.fingerprint+".\n") || !strings.Contains(said, "action=sign object=test result=done key="+k.fingerprint) {
		t.Fatalf("add-signing-service: %v\n%s", err, said)
	}
	found := s.list(t, signingServices+"?name="+name).Results
	if len(found) != 1 || found[0]["pubkey_fingerprint"] != k.fingerprint || found[0]["script"] != "" || !strings.Contains(text(found[0]["public_key"]), "PUBLIC KEY") {
		t.Fatalf("the signing service is %v", found)
	}
	return text(found[0]["pulp_href"])
}

// pulls checks that pulls by podman and skopeo under a policy succeed, or are refused.
func (c *containers) pulls(t *testing.T, policy, reference string, want bool) {
	t.Helper()
	for client, pull := range map[string]func(*testing.T, string, string, ...string) (string, error){"podman": c.podmanPull, "skopeo": c.pull} {
		if said, err := pull(t, policy, reference); want != (err == nil) {
			t.Errorf("%s pulls %s: %v, want it to pull: %v\n%s", client, reference, err, want, said)
		}
	}
}

// TestKeyFiles signs with keys of every kind, made by gpg, and verifies the signatures with gpg, skopeo and podman.
func TestKeyFiles(t *testing.T) {
	t.Parallel()
	stranger := keyNamed(t, "stranger")
	s := startServer(t)
	admin := asAdmin(t, s)
	const passphrase = "a passphrase that nobody tells"
	secrets := [][]byte{[]byte(passphrase)}
	for i, test := range []struct{ name, algorithm, passphrase string }{
		{"rsa2048", "rsa2048", ""}, {"rsa3072", "rsa3072", ""}, {"rsa4096", "rsa4096", passphrase}, {"ed25519", "ed25519", ""}, {"p256", "nistp256", passphrase},
		{"p384", "nistp384", ""}, {"p521", "nistp521", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := keyHome(t)
			k.generate(t, test.algorithm, test.passphrase)
			file := k.secret(t, test.passphrase)
			arguments := []string{"--openpgp-key", file}
			if test.passphrase != "" {
				if said, err := s.cli(t, nil, append([]string{"add-signing-service", "none"}, arguments...)...); err == nil {
					t.Errorf("without the passphrase the service was added: %s", said)
				}
				arguments = append(arguments, "--passphrase-file", write(t, filepath.Join(t.TempDir(), "passphrase"), test.passphrase+"\n", 0o600))
			}
			secrets = append(secrets, k.secretParts(t, file)...)
			service := s.addKeyService(t, test.name, k, arguments...)
			name := "keys/" + test.name
			content := image(t, "amd64", fmt.Sprint("key", i))
			digest := digestOf(t, content)
			admin.push(t, ociLayout(t, content), name+":1.0")
			policy := admin.signedBy(t, k)
			admin.pulls(t, policy, name+":1.0", false)
			s.signed(t, text(s.repository(t, name)["pulp_href"]), object{"manifest_signing_service": service})
			served := s.signatures(t, name, digest)
			if len(served) != 1 {
				t.Fatalf("%d signatures, want 1", len(served))
			}
			standaloneVerify(t, s, k, name, digest, "1.0", served[0])
			if c := k.claimOf(t, served[0].Content).Critical; c.Image.Digest != digest || c.Identity.Reference != s.host+"/"+name+":1.0" {
				t.Errorf("output of gpg --decrypt: %+v", c)
			}
			k.run(t, "--verify", write(t, filepath.Join(t.TempDir(), "signature"), string(served[0].Content), 0o600))
			admin.pulls(t, policy, name+":1.0", true)
			admin.pulls(t, admin.signedBy(t, stranger), name+":1.0", false)
		})
	}
	// Neither the database nor the log contains a part of the secrets.
	files, err := filepath.Glob(filepath.Join(s.data, "countersign.db*"))
	if err != nil || pgtest.URL(t) == "" && len(files) == 0 {
		t.Fatalf("the database's files: %v, %v", files, err)
	}
	for _, file := range append(files, s.command.Log) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, secret := range secrets {
			if bytes.Contains(text, secret) {
				t.Errorf("%s holds secret %d", file, i)
			}
		}
	}
}

// TestSubkeySigns signs with a subkey of a key file without the primary key's secret. Clients of Debian 12 verify the
// signature, but under a policy they accept only signatures by primary keys; so pulls under a policy are not tested.
func TestSubkeySigns(t *testing.T) {
	t.Parallel()
	k := keyHome(t)
	k.generate(t, "ed25519", "")
	k.run(t, "--passphrase", "", "--quick-add-key", k.fingerprint, "ed25519", "sign", "never")
	write(t, k.public, k.run(t, "--armor", "--export", k.fingerprint), 0o600)
	s := startServer(t)
	admin := asAdmin(t, s)
	content := image(t, "amd64", "subkey")
	admin.push(t, ociLayout(t, content), "keys/subkey:1.0")
	repository := text(s.repository(t, "keys/subkey")["pulp_href"])

	offline := s.addKeyService(t, "offline", k, "--openpgp-key", k.secret(t, "", "--armor", "--export-secret-subkeys", k.fingerprint))
	s.signed(t, repository, object{"manifest_signing_service": offline})
	served := s.signatures(t, "keys/subkey", digestOf(t, content))
	if len(served) != 1 {
		t.Fatalf("%d signatures, want 1", len(served))
	}
	k.run(t, "--verify", write(t, filepath.Join(t.TempDir(), "signature"), string(served[0].Content), 0o600))
	policy := admin.signedBy(t, k)
	said, err := admin.podmanPull(t, policy, "keys/subkey:1.0")
	t.Logf("podman pull of what a subkey has signed: %v\n%s", err, said)

	// With its secret in the file, the primary key signs, and all clients accept the signature.
	whole := s.addKeyService(t, "whole", k, "--openpgp-key", k.secret(t, ""))
	s.signed(t, repository, object{"manifest_signing_service": whole, "force": true})
	admin.pulls(t, policy, "keys/subkey:1.0", true)
}

// usableBy returns the number of processes that can use a service according to status/.
func (s *server) usableBy(t *testing.T, name string) float64 {
	t.Helper()
	services, _ := s.get(t, apiRoot+"status/")["signing_services"].([]any)
	for _, v := range services {
		if service, _ := v.(object); service["name"] == name {
			n, is := service["online_workers"].(float64)
			if !is {
				t.Fatalf("status/ has %v", service)
			}
			return n
		}
	}
	t.Fatalf("status names no service %s: %v", name, services)
	return 0
}

// TestKeyFileChanges removes the key file, makes it readable to others, and replaces its key: tasks wait until the key
// is back, and the log gives the reason. With the same key after its expiry, they fail.
func TestKeyFileChanges(t *testing.T) {
	t.Parallel()
	k, other := keyHome(t), keyHome(t)
	k.generate(t, "ed25519", "")
	other.generate(t, "ed25519", "")
	s := startServer(t)
	admin := asAdmin(t, s)
	admin.push(t, ociLayout(t, image(t, "amd64", "changes")), "keys/changes:1.0")
	repository := text(s.repository(t, "keys/changes")["pulp_href"])
	file := k.secret(t, "")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := os.ReadFile(other.secret(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	put := func(content []byte, mode os.FileMode) {
		t.Helper()
		beside := write(t, file+".new", string(content), 0o600)
		if err := errors.Join(os.Chmod(beside, mode), os.Rename(beside, file)); err != nil {
			t.Fatal(err)
		}
	}
	service := s.addKeyService(t, "changes", k, "--openpgp-key", file)
	sign := object{"manifest_signing_service": service, "force": true}
	s.signed(t, repository, sign)
	for _, test := range []struct {
		sentence string
		change   func()
		says     string
		status   bool
	}{
		{"it is gone", func() { must(t, s.env, "rm", file) }, "The key file cannot be read: no such file or directory: ", true},
		{"others may read it", func() { put(good, 0o644) }, "is accessible to users other than its owner", false},
		{"another key is there", func() { put(wrong, 0o600) }, "contains the key " + other.fingerprint, false},
		{"half of it is there", func() { put(good[:len(good)/2], 0o600) }, "The key cannot be used", false},
	} {
		t.Run(test.sentence, func(t *testing.T) {
			test.change()
			within(t, "the log says why", func() bool { return strings.Contains(s.LogTail(), test.says) })
			task := s.sign(t, repository, sign)
			if test.status { // status/ shows the state of the last heartbeat
				within(t, "status says that no process can use the service", func() bool { return s.usableBy(t, "changes") == 0 })
			}
			if state := s.get(t, task)["state"]; state != "waiting" {
				t.Errorf("the task is %v, want waiting", state)
			}
			put(good, 0o600)
			if done := s.finished(t, task); done["state"] != "completed" {
				t.Errorf("with the key back: %v", done)
			}
			if test.status {
				within(t, "status says that this process can", func() bool { return s.usableBy(t, "changes") == 1 })
			}
		})
	}
	k.run(t, "--passphrase", "", "--quick-set-expire", k.fingerprint, "seconds=1")
	time.Sleep(2100 * time.Millisecond) // gpg exports the expiry; the library compares whole seconds
	expired, err := os.ReadFile(k.secret(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	put(expired, 0o600)
	task := s.finished(t, s.sign(t, repository, sign))
	problem, _ := task["error"].(object)
	if said := text(problem["description"]); task["state"] != "failed" || said != "The key cannot be used: it has expired." {
		t.Errorf("with an expired key: %s, %q", task["state"], said)
	}
}

// TestKeyFileRefusals adds services with unsuitable files: each is refused with one line that does not show the file's
// content.
func TestKeyFileRefusals(t *testing.T) {
	t.Parallel()
	k := keyHome(t)
	k.generate(t, "ed25519", "")
	file := k.secret(t, "")
	open := k.secret(t, "")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, "COUNTERSIGN_SIGNING_DEFAULT_SERVICE=")
	for sentence, test := range map[string]struct {
		arguments []string
		says      string
	}{
		"no such file":         {[]string{"--openpgp-key", "/nonexistent"}, "The key file cannot be read: no such file or directory."},
		"a file for all":       {[]string{"--openpgp-key", open}, "set its mode to 0600"},
		"the public key":       {[]string{"--openpgp-key", k.public}, "public key only"},
		"a directory":          {[]string{"--openpgp-key", s.data}, "not a regular file"},
		"no passphrase file":   {[]string{"--openpgp-key", file, "--passphrase-file", "/nonexistent"}, "The passphrase file cannot be read"},
		"with a script":        {[]string{"/bin/true", k.id, "--openpgp-key", file}, "cannot be combined with --openpgp-key"},
		"with a home":          {[]string{"--home", k.home, "--openpgp-key", file}, "cannot be combined with --openpgp-key"},
		"a passphrase alone":   {[]string{"--passphrase-file", file}, "--passphrase-file requires --openpgp-key."},
		"nothing":              {nil, "Give a SCRIPT and its KEY"},
		"a class that is not":  {[]string{"--openpgp-key", file, "--class", "container:Foo"}, "App 'container' doesn't have a 'Foo' model."},
		"a script without key": {[]string{"/bin/true"}, "Give a SCRIPT and its KEY"},
	} {
		said, err := s.cli(t, nil, append([]string{"add-signing-service", "refused"}, test.arguments...)...)
		if err == nil || !strings.HasPrefix(said, "CommandError: ") || strings.Count(said, "\n") != 1 || !strings.Contains(said, test.says) {
			t.Errorf("%s: %v\n%s", sentence, err, said)
		}
	}
	if services := s.list(t, signingServices); services.Count != 0 {
		t.Errorf("signing services: %v", services)
	}
}
