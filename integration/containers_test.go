package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// containers is a user of podman, buildah and skopeo with a separate home directory, credentials and image storage, so
// that the machine's configuration is neither read nor changed.
type containers struct {
	home   string
	open   string // policy file that accepts everything
	server *server
}

// newContainers creates a user without a login.
func newContainers(t *testing.T, s *server) *containers {
	t.Helper()
	// podman refuses run directories whose path is longer than 50 characters.
	home, err := os.MkdirTemp(shared.dir, "user") //nolint:usetesting // for the reason above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	c := &containers{home: home, server: s}
	c.open = write(t, filepath.Join(home, "open.json"), `{"default": [{"type": "insecureAcceptAnything"}]}`, 0o600)
	write(t, filepath.Join(home, ".config/containers/registries.conf"), "", 0o600)
	write(t, filepath.Join(home, "auth.json"), "{}", 0o600)
	// An empty directory, so that the machine's own lookaside settings are not read.
	if err := os.MkdirAll(filepath.Join(home, ".config/containers/registries.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	return c
}

// asAdmin creates a user with the server's admin password in the file that podman login writes.
func asAdmin(t *testing.T, s *server) *containers {
	t.Helper()
	return asUser(t, s)
}

// asUser is asAdmin for the user of the server's api.
func asUser(t *testing.T, s *server) *containers {
	t.Helper()
	c := newContainers(t, s)
	need(t, "skopeo")
	must(t, c.env(), "skopeo", "login", "--tls-verify=false", "-u", s.user, "-p", s.password, s.host)
	return c
}

func (c *containers) env(added ...string) []string {
	return environment(c.home, append([]string{
		"REGISTRY_AUTH_FILE=" + filepath.Join(c.home, "auth.json"),
		"CONTAINERS_REGISTRIES_CONF=" + filepath.Join(c.home, ".config/containers/registries.conf"),
		"XDG_RUNTIME_DIR=" + filepath.Join(c.home, "run"),
	}, added...)...)
}

func (c *containers) podman(t *testing.T, env []string, arguments ...string) (string, error) {
	t.Helper()
	need(t, "podman")
	return output(t, c.env(env...), "podman", append([]string{
		"--root", filepath.Join(c.home, "podman"), "--runroot", filepath.Join(c.home, "podman-run"), "--tmpdir", filepath.Join(c.home, "podman-tmp"),
		"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none",
	}, arguments...)...)
}

func (c *containers) buildah(t *testing.T, arguments ...string) string {
	t.Helper()
	need(t, "buildah")
	return must(t, c.env(), "buildah", append([]string{
		"--root", filepath.Join(c.home, "buildah"), "--runroot", filepath.Join(c.home, "buildah-run"), "--storage-driver", "vfs",
	}, arguments...)...)
}

// podmanPush loads an OCI layout into podman's storage and pushes it as name:tag.
func (c *containers) podmanPush(t *testing.T, oci, reference string, options ...string) {
	t.Helper()
	said, err := c.podman(t, nil, "pull", "--quiet", "--signature-policy", c.open, oci)
	if err != nil {
		t.Fatalf("podman pull %s: %v\n%s", oci, err, said)
	}
	lines := strings.Fields(said)
	c.podmanPushID(t, nil, lines[len(lines)-1], reference, options...)
}

func (c *containers) podmanPushID(t *testing.T, env []string, id, reference string, options ...string) {
	t.Helper()
	arguments := append([]string{"push", "--quiet", "--tls-verify=false", "--signature-policy", c.open}, options...)
	if said, err := c.podman(t, env, append(arguments, id, c.server.host+"/"+reference)...); err != nil {
		t.Fatalf("podman push %s: %v\n%s", reference, err, said)
	}
}

// podmanPull pulls name:tag under a policy, without credentials and into an empty storage.
func (c *containers) podmanPull(t *testing.T, policy, reference string, options ...string) (string, error) {
	t.Helper()
	fresh := newContainers(t, c.server)
	arguments := append([]string{"pull", "--tls-verify=false", "--signature-policy", policy}, options...)
	return fresh.podman(t, nil, append(arguments, c.server.host+"/"+reference)...)
}

// push copies an OCI layout to name:tag with skopeo, including all images of an index.
func (c *containers) push(t *testing.T, oci, reference string, options ...string) {
	t.Helper()
	need(t, "skopeo")
	arguments := append([]string{"--policy", c.open, "copy", "--quiet", "--all", "--dest-tls-verify=false"}, options...)
	must(t, c.env(), "skopeo", append(arguments, oci, "docker://"+c.server.host+"/"+reference)...)
}

// pull copies name:tag to a directory with skopeo under a policy. The options are those of skopeo, such as
// --override-arch.
func (c *containers) pull(t *testing.T, policy, reference string, options ...string) (string, error) {
	t.Helper()
	need(t, "skopeo")
	arguments := append([]string{"--policy", policy}, options...)
	arguments = append(arguments, "copy", "--src-tls-verify=false", "docker://"+c.server.host+"/"+reference, "dir:"+t.TempDir())
	return output(t, c.env(), "skopeo", arguments...)
}

// signedBy writes a policy that accepts only images of this server with a signature by the key.
func (c *containers) signedBy(t *testing.T, k *key) string {
	t.Helper()
	reject := []object{{"type": "reject"}}
	policy, err := json.Marshal(object{
		"default": reject,
		"transports": object{"docker": object{
			c.server.host: []object{{"type": "signedBy", "keyType": "GPGKeys", "keyPath": k.public}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(t.TempDir(), "policy.json"), string(policy), 0o600)
}
