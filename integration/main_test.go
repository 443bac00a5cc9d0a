// Package integration tests the built binary with common clients: podman, docker, skopeo, buildah, gpg and curl.
//
// It uses only the command line, the environment and the wire formats, and imports hardly more of the module than
// integration/process and the helpers of tests (internal/eventually, internal/pgtest). If a client is not installed,
// its tests skip with a message.
package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/pgtest"
)

// common has the objects that tests share. The first test that needs one creates it; TestMain ends it.
type common struct {
	dir    string // short, because it contains sockets
	root   string // root of the module
	binary func() (string, error)
	peer   func() (string, error) // the registry distribution
	suite  func() (string, error) // the OCI conformance suite
	docker func() (*dockerDaemon, error)
	keys   map[string]func() (*key, error)
}

var shared common

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = 1
	}
	os.Exit(code)
}

// run prepares the shared objects, runs the tests, and stops the remaining processes.
func run(m *testing.M) (code int, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir, err := os.MkdirTemp("", "cs")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	root, err := process.ModuleRoot(ctx)
	if err != nil {
		return 1, err
	}
	var daemon *dockerDaemon
	shared = common{
		dir:  dir,
		root: root,
		binary: sync.OnceValues(func() (string, error) {
			if built := os.Getenv("COUNTERSIGN_TEST_BINARY"); built != "" { // for example of a release
				return built, nil
			}
			return process.Build(ctx, dir, ".", buildFlags()...)
		}),
		peer: sync.OnceValues(func() (string, error) {
			return process.Build(ctx, dir, "integration/baredist")
		}),
		suite: sync.OnceValues(func() (string, error) { return buildConformance(ctx, root, dir) }),
		docker: sync.OnceValues(func() (*dockerDaemon, error) {
			var err error
			daemon, err = startDocker(ctx, filepath.Join(dir, "docker"))
			return daemon, err
		}),
		keys: map[string]func() (*key, error){},
	}
	for _, name := range []string{"trusted", "stranger"} {
		shared.keys[name] = sync.OnceValues(func() (*key, error) { return newKey(ctx, filepath.Join(dir, name), name) })
		defer endAgent(filepath.Join(dir, name))
	}
	code = pgtest.Main(m)
	if daemon != nil {
		daemon.stop()
	}
	return code, nil
}

// buildFlags adds the race detector to the server if COUNTERSIGN_TEST_RACE is set. It makes the server several times
// slower.
func buildFlags() []string {
	if os.Getenv("COUNTERSIGN_TEST_RACE") != "" {
		return []string{"-race"}
	}
	return nil
}

// soaking reports whether to run the long form of the load and crash tests.
func soaking() bool { return os.Getenv("COUNTERSIGN_SOAK") != "" }

// need skips the test if a program is not installed.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed; tools/install-test-tools.sh says how to get it", program)
		}
	}
}

// environment returns the environment of a client: a path, a home directory, the English locale, and additions.
func environment(home string, added ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LANG=C.UTF-8", "TMPDIR=" + os.TempDir()}, added...)
}

// output runs a program and returns its standard output and standard error, and its error.
func output(t *testing.T, env []string, program string, arguments ...string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), program, arguments...)
	command.Env = env
	said, err := command.CombinedOutput()
	return string(said), err
}

// must runs a program, fails the test if the program fails, and returns its output.
func must(t *testing.T, env []string, program string, arguments ...string) string {
	t.Helper()
	said, err := output(t, env, program, arguments...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(arguments, " "), err, said)
	}
	return said
}

// write creates a file and returns its path.
func write(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}
