package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSystemdUnits holds the units to what systemd itself says of them: nothing to complain of, and little exposure. What they forbid is
// not put into force here, for that needs a running systemd.
func TestSystemdUnits(t *testing.T) {
	t.Parallel()
	need(t, "systemd-analyze")
	binary, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	// In tenths of systemd's exposure level, whose worst is 10.0 and whose "OK" ends at 4.9.
	const threshold = "--threshold=30"
	for _, name := range []string{"countersign.service", "countersign-worker.service"} {
		unit, err := os.ReadFile(filepath.Join(shared.root, "deploy/systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		// The program has to be where the unit says.
		const installed = "/usr/local/bin/countersign "
		if !strings.Contains(string(unit), "ExecStart="+installed) {
			t.Fatalf("%s does not start %s", name, installed)
		}
		home := t.TempDir()
		path := write(t, filepath.Join(home, name), strings.ReplaceAll(string(unit), installed, binary+" "), 0o644)
		if said := must(t, environment(home), "systemd-analyze", "verify", path); said != "" {
			t.Errorf("systemd-analyze verify %s:\n%s", name, said)
		}
		if said, err := output(t, environment(home), "systemd-analyze", "security", "--no-pager", "--offline=true", threshold, path); err != nil {
			t.Errorf("systemd-analyze security %s: %v\n%s", name, err, said)
		}
	}
}
