package policy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// unreachable are what the go command says where it cannot fetch a module.
var unreachable = []string{"dial tcp", "lookup ", "module lookup disabled", "i/o timeout", "TLS handshake", "proxyconnect"}

// TestOracle runs the comparison with the code of podman and skopeo, which is a module of its own (oracle).
func TestOracle(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it builds a program with many dependencies")
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("the go command is not installed")
	}
	tags, err := os.ReadFile("oracle/tags")
	if err != nil {
		t.Fatal(err)
	}
	// The module's own go.mod stays as it is when a dependency of the program has changed: copies are brought up to date.
	module := filepath.Join(t.TempDir(), "go.mod")
	for from, to := range map[string]string{"oracle/go.mod": module, "oracle/go.sum": strings.TrimSuffix(module, "mod") + "sum"} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(arguments ...string) (string, error) {
		c := exec.CommandContext(t.Context(), tool, append(arguments, "-modfile="+module, "-mod=mod", "-tags", string(tags), ".")...)
		c.Dir, c.Env = "oracle", append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
		said, err := c.CombinedOutput()
		return string(said), err
	}
	said, err := run("list", "-test", "-deps")
	if err != nil {
		for _, sign := range unreachable {
			if strings.Contains(said, sign) {
				t.Skipf("the oracle's modules cannot be fetched: %s", said)
			}
		}
		t.Fatalf("%v\n%s", err, said)
	}
	if said, err = run("test", "-count=1", "-v"); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	t.Log(said)
}
