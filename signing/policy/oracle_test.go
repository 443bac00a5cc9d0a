package policy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/slowtest"
)

// unreachable are parts of the messages of the go command when it cannot download a module.
var unreachable = []string{"dial tcp", "lookup ", "module lookup disabled", "i/o timeout", "TLS handshake", "proxyconnect"}

// TestSlowOracle runs the module oracle, which compares this package with the code of podman and skopeo.
func TestSlowOracle(t *testing.T) {
	t.Parallel()
	slowtest.Only(t) // it builds a program with many dependencies
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("the go command is not installed")
	}
	tags, err := os.ReadFile("oracle/tags")
	if err != nil {
		t.Fatal(err)
	}
	// The go command may update go.mod after a change of this module's dependencies, so it gets a copy.
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
		out, err := c.CombinedOutput()
		return string(out), err
	}
	out, err := run("list", "-test", "-deps")
	if err != nil {
		for _, part := range unreachable {
			if strings.Contains(out, part) {
				t.Skipf("the oracle's modules cannot be fetched: %s", out)
			}
		}
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err = run("test", "-count=1", "-v"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log(out)
}
