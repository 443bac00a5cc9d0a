package integration

import (
	"bytes"
	"cmp"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// pinned is a user of a client that tools/clients pins (crane, oras, helm, cosign), with a separate home directory and
// credentials.
type pinned struct {
	program string
	home    string
	env     []string
	server  *server
}

// newPinned creates a user without a login. It skips the test if tools/install-test-tools.sh has not built the client.
func newPinned(t *testing.T, client string, s *server) *pinned {
	t.Helper()
	program := pinnedPath(t, client)
	if _, err := os.Stat(program); err != nil {
		t.Skipf("%s is not there; tools/install-test-tools.sh builds it", program)
	}
	home := t.TempDir()
	return &pinned{program: program, home: home, env: environment(home), server: s}
}

// pinnedPath returns the path of a client at the version that its module requires.
func pinnedPath(t *testing.T, client string) string {
	t.Helper()
	cache := cmp.Or(os.Getenv("XDG_CACHE_HOME"), filepath.Join(os.Getenv("HOME"), ".cache")) // on every system, like the script
	var tool string
	for line := range strings.Lines(string(read(t, filepath.Join(shared.root, "tools/clients", client, "go.mod")))) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if fields[0] == "tool" {
			tool = fields[1] + "/"
		} else if tool != "" && strings.HasPrefix(tool, fields[0]+"/") {
			return filepath.Join(cache, "countersign/bin", client+"-"+fields[1])
		}
	}
	t.Fatalf("tools/clients/%s/go.mod requires no version of its tool", client)
	return ""
}

// try runs the client in its home directory and returns its standard output and standard error.
func (p *pinned) try(t *testing.T, arguments ...string) (answer, complaints string, err error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), p.program, arguments...)
	command.Env, command.Dir = p.env, p.home
	var out, problems bytes.Buffer
	command.Stdout, command.Stderr = &out, &problems
	err = command.Run()
	return out.String(), problems.String(), err
}

// must runs the client, fails the test if the client fails, and returns its standard output.
func (p *pinned) must(t *testing.T, arguments ...string) string {
	t.Helper()
	answer, complaints, err := p.try(t, arguments...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(p.program), strings.Join(arguments, " "), err, answer, complaints)
	}
	return answer
}

// line is must for an output of one line.
func (p *pinned) line(t *testing.T, arguments ...string) string {
	t.Helper()
	return strings.TrimSpace(p.must(t, arguments...))
}

// refused checks that the client fails with this reason.
func (p *pinned) refused(t *testing.T, reason string, arguments ...string) {
	t.Helper()
	answer, complaints, err := p.try(t, arguments...)
	if said := answer + complaints; err == nil || !strings.Contains(said, reason) {
		t.Errorf("%s %s: %v, want a failure with %q\n%s", filepath.Base(p.program), strings.Join(arguments, " "), err, reason, said)
	}
}

// file writes a file into the client's home directory and returns its name.
func (p *pinned) file(t *testing.T, name, text string) string {
	t.Helper()
	write(t, filepath.Join(p.home, name), text, 0o600)
	return name
}

// read reads a file in the client's home directory.
func (p *pinned) read(t *testing.T, name string) string {
	t.Helper()
	return string(read(t, filepath.Join(p.home, name)))
}

// layoutDir writes an image or an index as an OCI image layout and returns its directory.
func layoutDir(t *testing.T, content mutate.Appendable) string {
	t.Helper()
	return strings.TrimSuffix(strings.TrimPrefix(ociLayout(t, content), "oci:"), ":v1")
}

// manifestIn finds a manifest in the latest version of a push repository, as the REST API shows it.
func (s *server) manifestIn(t *testing.T, repository, digest string) object {
	t.Helper()
	version := text(s.repository(t, repository)["latest_version_href"])
	found := s.list(t, manifestList+"?repository_version="+version+"&digest="+digest)
	if found.Count != 1 {
		t.Fatalf("%s holds %d manifests %s, want 1", version, found.Count, digest)
	}
	return found.Results[0]
}

// rawManifest reads the bytes of a manifest by tag or digest.
func (s *server) rawManifest(t *testing.T, repository, reference string) string {
	t.Helper()
	status, _, manifest := s.do(t, http.MethodGet, "/v2/"+repository+"/manifests/"+reference, http.Header{"Accept": {"*/*"}}, nil)
	if status != http.StatusOK {
		t.Fatalf("GET %s@%s: %d %s", repository, reference, status, manifest)
	}
	return string(manifest)
}
