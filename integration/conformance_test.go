package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestConformance runs the OCI distribution specification's own suite against the binary, with everything that the suite enables by default
// and what it leaves to choice; nothing may fail, and nothing may be skipped.
func TestConformance(t *testing.T) {
	t.Parallel()
	suite := conformanceSuite(t)
	bin := filepath.Join(t.TempDir(), "conformance")
	for name, setting := range map[string]string{"anonymous pull": "true", "no anonymous pull": "false"} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, "COUNTERSIGN_ANONYMOUS_PULL="+setting)
			cmd := exec.CommandContext(t.Context(), "bash", suite, s.host, "admin", adminPassword)
			cmd.WaitDelay = time.Second
			cmd.Env = append(os.Environ(), "OCI_CONFORMANCE_BIN="+bin, "OCI_RESULTS_DIR="+t.TempDir(), "OCI_API_MANIFESTS_TAG_PARAM=true",
				"OCI_API_BLOBS_UPLOAD_CANCEL=true", "OCI_API_BLOBS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_DIGEST_HEADER=true")
			out, err := cmd.CombinedOutput()
			counts := regexp.MustCompile(`(?m)^  (Pass|Skip|FAIL|Error|Total)\.+: +(\d+)$`).FindAllStringSubmatch(string(out), -1)
			got := map[string]string{}
			for _, c := range counts {
				got[c[1]] = c[2]
			}
			if err != nil || got["Skip"] != "0" || got["FAIL"] != "0" || got["Error"] != "0" || len(got["Total"]) < 3 {
				t.Errorf("%v, %v\n%s", err, got, lines(string(out), "FAIL", "Skip", "level=WARN"))
			}
		})
	}
}

// conformanceSuite returns the suite's script. It lies beside the checkout on the project's own machines, and is no part of the product.
func conformanceSuite(t *testing.T) string {
	t.Helper()
	suite := os.Getenv("COUNTERSIGN_CONFORMANCE")
	if suite == "" {
		suite = filepath.Join(shared.root, "../shared/conformance/run.sh")
	}
	if _, err := os.Stat(suite); err != nil {
		t.Skip("the OCI conformance suite is not beside this checkout; COUNTERSIGN_CONFORMANCE names its run.sh")
	}
	return suite
}

// lines returns the lines of a text that hold one of some words.
func lines(text string, words ...string) string {
	var found []string
	for line := range strings.Lines(text) {
		for _, w := range words {
			if strings.Contains(line, w) {
				found = append(found, line)
				break
			}
		}
	}
	return strings.Join(found, "")
}
