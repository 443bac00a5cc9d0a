package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestConformance runs the OCI distribution specification's conformance suite against the server, with the tests that
// the suite runs by default and all optional ones. None may fail, and none may be skipped.
func TestConformance(t *testing.T) {
	t.Parallel()
	counted := regexp.MustCompile(`(?m)^  (Pass|Skip|FAIL|Error|Total)\.+: +(\d+)$`)
	for name, setting := range map[string]string{"anonymous pull": "true", "no anonymous pull": "false"} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, "COUNTERSIGN_ANONYMOUS_PULL="+setting)
			out, err := runConformance(t, s.host, t.TempDir())
			got := map[string]string{}
			for _, count := range counted.FindAllStringSubmatch(out, -1) {
				got[count[1]] = count[2]
			}
			if err != nil || got["Skip"] != "0" || got["FAIL"] != "0" || got["Error"] != "0" || len(got["Total"]) < 3 {
				t.Errorf("%v, %v\n%s", err, got, lines(out, "FAIL", "Skip", "level=WARN"))
			}
		})
	}
}

// buildConformance builds the suite at the version that tools/clients/conformance pins and returns the path of the
// program. Its source is a Go module, like the server's dependencies, so a test never skips because the suite is
// missing.
func buildConformance(ctx context.Context, root, dir string) (string, error) {
	program := filepath.Join(dir, "conformance")
	build := exec.CommandContext(ctx, "go", "build", "-C", filepath.Join(root, "tools/clients/conformance"), "-o", program,
		"github.com/opencontainers/distribution-spec/conformance")
	build.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the conformance suite: %w\n%s", err, out)
	}
	return program, nil
}

// runConformance runs the suite with all optional tests against the registry at host, over plain HTTP and as admin. It
// writes its reports into the directory results, and returns what the suite printed. The error is the suite's exit
// status: it says only that some test failed.
func runConformance(t *testing.T, host, results string) (string, error) {
	t.Helper()
	program, err := shared.suite()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(),
		"OCI_REGISTRY="+host, "OCI_TLS=disabled", "OCI_USERNAME=admin", "OCI_PASSWORD="+adminPassword,
		"OCI_REPO1=conformance/repo1", "OCI_REPO2=conformance/repo2", "OCI_RESULTS_DIR="+results,
		"OCI_API_MANIFESTS_TAG_PARAM=true", "OCI_API_BLOBS_UPLOAD_CANCEL=true", "OCI_API_BLOBS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_DIGEST_HEADER=true",
	)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// lines returns the lines of a text that contain one of some words.
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
