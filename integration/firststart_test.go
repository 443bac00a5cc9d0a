package integration

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/pgtest"
)

// TestNewcomerSigns signs after a first start without any preparation: the server has generated a key.
func TestNewcomerSigns(t *testing.T) {
	t.Parallel()
	if pgtest.URL(t) != "" {
		t.Skip("only a start on SQLite makes a service")
	}
	s := startServer(t)
	services := s.list(t, signingServices)
	if services.Count != 1 || services.Results[0]["name"] != "countersign" {
		t.Fatalf("signing services: %v", services)
	}
	service := services.Results[0]
	k := keyHome(t)
	k.fingerprint = text(service["pubkey_fingerprint"])
	write(t, k.public, text(service["public_key"]), 0o600)
	k.run(t, "--import", k.public)
	tiny, err := s.pushTiny(t, "new/comer", "1.0", "hello")
	if err != nil {
		t.Fatal(err)
	}
	s.signed(t, text(s.repository(t, "new/comer")["pulp_href"]), object{"manifest_signing_service": service["pulp_href"]})
	served := s.signatures(t, "new/comer", tiny.name)
	if len(served) != 1 {
		t.Fatalf("%d signatures, want 1", len(served))
	}
	standaloneVerify(t, s, k, "new/comer", tiny.name, "1.0", served[0])
	admin := asAdmin(t, s)
	admin.push(t, ociLayout(t, image(t, "amd64", "newcomer")), "new/comer:2.0")
	admin.pulls(t, admin.signedBy(t, k), "new/comer:2.0", false)
	s.signed(t, text(s.repository(t, "new/comer")["pulp_href"]), object{"manifest_signing_service": service["pulp_href"]})
	admin.pulls(t, admin.signedBy(t, k), "new/comer:2.0", true)

	// The data directory may be moved, and a removed service is not created again.
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	moved := s.data + "-moved"
	if err := os.Rename(s.data, moved); err != nil {
		t.Fatal(err)
	}
	s.data, s.env = moved, append(s.env[:len(s.env):len(s.env)], "COUNTERSIGN_DATA="+moved)
	s.command.Env = s.env
	s.start(t)
	s.signed(t, text(s.repository(t, "new/comer")["pulp_href"]), object{"manifest_signing_service": service["pulp_href"], "force": true})
	if said, err := s.cli(t, nil, "remove-signing-service", "countersign"); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	if left := s.list(t, signingServices); left.Count != 0 {
		t.Errorf("after a restart there are %v", left)
	}
}

// TestDefaultServiceOff checks that no service is created if the setting is empty, or if a service was added before the
// first start.
func TestDefaultServiceOff(t *testing.T) {
	t.Parallel()
	off := startServer(t, "COUNTERSIGN_SIGNING_DEFAULT_SERVICE=")
	if services := off.list(t, signingServices); services.Count != 0 {
		t.Errorf("signing services: %v", services)
	}
	if _, err := os.Stat(filepath.Join(off.data, "keys")); !os.IsNotExist(err) {
		t.Errorf("the directory of keys: %v", err)
	}
	k := keyHome(t)
	k.generate(t, "ed25519", "")
	before := startServer(t)
	if err := before.Stop(); err != nil {
		t.Fatal(err)
	}
	if pgtest.URL(t) != "" {
		return // the rest requires an empty data directory
	}
	if err := os.RemoveAll(before.data); err != nil {
		t.Fatal(err)
	}
	if said, err := before.cli(t, nil, "add-signing-service", "mine", "--openpgp-key", k.secret(t, "")); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	before.start(t)
	if services := before.list(t, signingServices); services.Count != 1 || services.Results[0]["name"] != "mine" {
		t.Errorf("signing services: %v", services)
	}
}

// TestFirstStartIsKilled kills first starts at times that differ by some milliseconds: in the end there is always
// exactly one key, and one service that signs with it.
func TestFirstStartIsKilled(t *testing.T) {
	t.Parallel()
	if pgtest.URL(t) != "" {
		t.Skip("only a start on SQLite makes a service")
	}
	s := startServer(t)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	moments := map[string]int{}
	for i := range 12 {
		if err := os.RemoveAll(s.data); err != nil {
			t.Fatal(err)
		}
		for attempt := range 3 {
			command := exec.CommandContext(t.Context(), s.command.Program, s.command.Arguments...)
			command.Env = s.env
			if err := command.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(20*i+7*attempt) * time.Millisecond)
			_ = command.Process.Kill()
			_ = command.Wait()
			moments[fmt.Sprintf("%d keys", len(keyFiles(t, s.data)))]++
		}
		s.start(t)
		files := keyFiles(t, s.data)
		services := s.list(t, signingServices)
		if len(files) != 1 || services.Count != 1 || files[0] != text(services.Results[0]["pubkey_fingerprint"])+".asc" {
			t.Fatalf("keys %v, services %v", files, services)
		}
		image, err := s.pushTiny(t, "killed/app", "1.0", "hello")
		if err != nil {
			t.Fatal(err)
		}
		s.signed(t, text(s.repository(t, "killed/app")["pulp_href"]), object{"manifest_signing_service": services.Results[0]["pulp_href"]})
		if served := s.signatures(t, "killed/app", image.name); len(served) != 1 {
			t.Errorf("%d signatures, want 1", len(served))
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("what the killed starts had left: %v", moments)

	// The state between the creation of the key and of its service: only the key exists.
	entries, err := os.ReadDir(s.data)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.Name() != "keys" {
			if err := os.RemoveAll(filepath.Join(s.data, entry.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := keyFiles(t, s.data)
	s.start(t)
	services := s.list(t, signingServices)
	if after := keyFiles(t, s.data); !slices.Equal(before, after) || services.Count != 1 || text(services.Results[0]["pubkey_fingerprint"])+".asc" != before[0] {
		t.Errorf("keys %v, then %v, services %v", before, after, services)
	}
}

// keyFiles returns the names of the key files in a data directory.
func keyFiles(t *testing.T, data string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(data, "keys"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, err := hex.DecodeString(strings.TrimSuffix(e.Name(), ".asc")); err == nil {
			names = append(names, e.Name())
		}
	}
	return names
}
