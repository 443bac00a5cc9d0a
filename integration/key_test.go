package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// key is an OpenPGP key pair for the tests, in a separate GnuPG home.
type key struct {
	home        string // GNUPGHOME; short, because it contains a socket
	fingerprint string // 40 hex digits, upper case
	id          string // the last 16 of them
	mail        string
	public      string // file with the armoured public key
}

// keyNamed returns one of the shared keys: "trusted", or "stranger", which is in no policy.
func keyNamed(t *testing.T, name string) *key {
	t.Helper()
	need(t, "gpg", "gpgconf", "gpg-agent")
	k, err := shared.keys[name]()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newKey(ctx context.Context, home, name string) (*key, error) {
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, err
	}
	k := &key{home: home, mail: name + "@example.com", public: filepath.Join(home, "public.asc")}
	if _, err := k.gpg(ctx, "--passphrase", "", "--quick-generate-key", name+" <"+k.mail+">", "rsa2048", "sign", "never"); err != nil {
		return nil, err
	}
	listed, err := k.gpg(ctx, "--with-colons", "--list-secret-keys")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(listed) {
		if fields := strings.Split(line, ":"); fields[0] == "fpr" {
			k.fingerprint = fields[9]
			k.id = k.fingerprint[24:]
			break
		}
	}
	armored, err := k.gpg(ctx, "--armor", "--export", k.fingerprint)
	if err != nil {
		return nil, err
	}
	return k, os.WriteFile(k.public, []byte(armored), 0o600)
}

func (k *key) gpg(ctx context.Context, arguments ...string) (string, error) {
	command := exec.CommandContext(ctx, "gpg", append([]string{"--batch", "--no-tty", "--pinentry-mode", "loopback"}, arguments...)...)
	command.Env = environment(k.home, k.env())
	var said bytes.Buffer
	command.Stderr = &said
	out, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("gpg %s: %w\n%s", strings.Join(arguments, " "), err, said.String())
	}
	return string(out), nil
}

// env returns the variables with which gpg, skopeo and podman use the key's home.
func (k *key) env() string { return "GNUPGHOME=" + k.home }

// endAgent stops the gpg-agent of a home, if there is one.
func endAgent(home string) {
	if _, err := os.Stat(home); err != nil {
		return
	}
	command := exec.Command("gpgconf", "--homedir", home, "--kill", "gpg-agent")
	// Errors do not matter: the agent may have ended, or ends when its home is deleted.
	_ = command.Run()
}

// claim is the payload of an atomic container signature.
type claim struct {
	Critical struct {
		Type  string `json:"type"`
		Image struct {
			Digest string `json:"docker-manifest-digest"`
		} `json:"image"`
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
	} `json:"critical"`
}

// claimOf verifies a signature by this key with gpg and returns its payload.
func (k *key) claimOf(t *testing.T, signed []byte) claim {
	t.Helper()
	file := filepath.Join(t.TempDir(), "signature")
	if err := os.WriteFile(file, signed, 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := k.gpg(t.Context(), "--decrypt", file)
	if err != nil {
		t.Fatal(err)
	}
	var c claim
	if err := json.Unmarshal([]byte(said), &c); err != nil {
		t.Fatalf("payload %q: %v", said, err)
	}
	return c
}

// seedScript is the signing script of Pulp's guide, unchanged.
const seedScript = `#!/usr/bin/env bash

MANIFEST_PATH=$1
FINGEPRINT="$PULP_SIGNING_KEY_FINGERPRINT"
IMAGE_REFERENCE="$REFERENCE"
SIGNATURE_PATH="$SIG_PATH"

# Create atomic container signature
skopeo standalone-sign $MANIFEST_PATH $IMAGE_REFERENCE $FINGEPRINT --output $SIGNATURE_PATH
# Check the exit status
STATUS=$?
if [ $STATUS -eq 0 ]; then
  echo {\"signature_path\": \"$SIGNATURE_PATH\"}
else
  exit $STATUS
fi
`

// addService adds a signing service with the command line of Pulp's guide and returns its href. The default script is
// the guide's.
func (s *server) addService(t *testing.T, name string, k *key, script string) string {
	t.Helper()
	need(t, "skopeo")
	if script == "" {
		script = seedScript
	}
	path := write(t, filepath.Join(t.TempDir(), "bash-script.sh"), script, 0o755)
	said, err := s.cli(t, []string{k.env()}, "add-signing-service", name, path, k.id, "--class", "container:ManifestSigningService", "--gnupghome", k.home)
	if err != nil {
		t.Fatalf("add-signing-service: %v\n%s", err, said)
	}
	found := s.list(t, signingServices+"?name="+name)
	if found.Count != 1 {
		t.Fatalf("%d signing services named %s, want 1", found.Count, name)
	}
	return text(found.Results[0]["pulp_href"])
}
