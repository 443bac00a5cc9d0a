package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/integration/process"
)

// builder is buildah with a separate storage in dir. It requires root, for chroot.
type builder struct {
	dir    string
	policy string
}

func (b builder) run(t *testing.T, arguments ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "buildah", append([]string{
		"--root", filepath.Join(b.dir, "root"), "--runroot", filepath.Join(b.dir, "run"), "--storage-driver", "vfs",
	}, arguments...)...)
	command.Env = environment(b.dir)
	var said bytes.Buffer
	command.Stderr = &said
	out, err := command.Output()
	if err != nil {
		t.Fatalf("buildah %s: %v\n%s%s", strings.Join(arguments, " "), err, out, said.String())
	}
	return strings.TrimSpace(string(out))
}

// standIn creates an image that replaces one with Go: an empty root, with this machine's /usr, modules and build cache
// mounted when it runs. It returns the image's name and the mounts.
func (b builder) standIn(t *testing.T) (name string, mounts []string) {
	t.Helper()
	var from map[string]string
	if err := json.Unmarshal([]byte(must(t, os.Environ(), "go", "env", "-json", "GOROOT", "GOMODCACHE", "GOCACHE")), &from); err != nil {
		t.Fatal(err)
	}
	container := b.run(t, "from", "scratch")
	root := b.run(t, "mount", container)
	for _, dir := range []string{"usr", "go", "modules", "cache", "tmp", "etc/ssl/certs"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"bin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+link, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "etc/ssl/certs/ca-certificates.crt"), "stands for certificates", 0o644)
	b.run(t, "config", "--env", "PATH=/go/bin:/usr/bin", "--env", "HOME=/cache", "--env", "GOMODCACHE=/modules", "--env", "GOCACHE=/cache",
		"--env", "GOPROXY=off", "--env", "GOFLAGS=-buildvcs=false", container)
	b.run(t, "commit", "--quiet", "--rm", container, "localhost/go:stand-in")
	return "localhost/go:stand-in", []string{
		"--volume", "/usr:/usr:ro", "--volume", from["GOROOT"] + ":/go:ro", "--volume", from["GOMODCACHE"] + ":/modules:ro", "--volume", from["GOCACHE"] + ":/cache",
	}
}

// TestContainerfile builds the image static with buildah, and runs its server in its root as its user. A stand-in
// replaces the image with Go, because no registry may be reachable. The image full is not tested: its base and its
// packages.
func TestContainerfile(t *testing.T) {
	t.Parallel()
	need(t, "buildah", "chroot")
	if os.Getuid() != 0 {
		t.Skip("chroot needs root")
	}
	b := builder{dir: t.TempDir()}
	b.policy = write(t, filepath.Join(b.dir, "policy.json"), `{"default": [{"type": "insecureAcceptAnything"}]}`, 0o600)
	base, mounts := b.standIn(t)
	const version, name = "1.2.3-test", "localhost/countersign:static"
	file := filepath.Join(shared.root, "deploy/Containerfile")
	arguments := append([]string{
		"bud", "--isolation", "chroot", "--network", "host", "--pull-never", "--signature-policy", b.policy, "--build-arg", "GO_IMAGE=" + base,
		"--build-arg", "VERSION=" + version, "--file", file, "--ignorefile", file + ".dockerignore", "--target", "static", "--tag", name,
	}, mounts...)
	b.run(t, append(arguments, shared.root)...)

	var made struct {
		OCIv1 struct {
			Config struct {
				User, WorkingDir     string
				Env, Entrypoint, Cmd []string
				ExposedPorts         map[string]any
				Volumes              map[string]any
			} `json:"config"`
		}
	}
	if err := json.Unmarshal([]byte(b.run(t, "inspect", "--type", "image", name)), &made); err != nil {
		t.Fatal(err)
	}
	config := made.OCIv1.Config
	_, exposed := config.ExposedPorts["24817/tcp"]
	if _, kept := config.Volumes[config.WorkingDir]; config.User != "65532:65532" || !exposed || !kept || len(config.Entrypoint) != 1 {
		t.Fatalf("the image's configuration: %+v", config)
	}
	root := b.run(t, "mount", b.run(t, "from", "--pull-never", "--signature-policy", b.policy, name))
	line := append([]string{"--userspec=" + config.User, root}, config.Entrypoint...)
	if said := must(t, config.Env, "chroot", append(line, "version")...); !strings.Contains(said, version) {
		t.Errorf("the version is %q, want %s", said, version)
	}
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	server, err := process.Start(t.Context(), process.Command{
		Program: "chroot", Arguments: append(line, config.Cmd...), Env: append(config.Env, "COUNTERSIGN_LISTEN="+address),
		Log: filepath.Join(b.dir, "log"), Ready: []string{"http://" + address + "/v2/", "http://" + address + "/pulp/api/v3/readyz/"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	for path, want := range map[string]os.FileMode{"tmp": os.ModeDir | os.ModeSticky | 0o777, config.WorkingDir: os.ModeDir | 0o700, config.WorkingDir + "/countersign.db": 0o600} {
		if have, err := os.Stat(filepath.Join(root, path)); err != nil || have.Mode() != want {
			t.Errorf("/%s: %v, %v, want %v", path, have, err, want)
		}
	}
	if err := server.Stop(); err != nil {
		t.Error(err)
	}
}
