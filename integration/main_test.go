// Package integration drives the built binary with the clients that people use: podman, docker, skopeo, buildah, gpg and curl.
//
// It knows the product by its command line, its environment and its wire formats only; nothing of the module but integration/process is
// and the tests' own PostgreSQL (internal/pgtest) is imported. A client that is not installed skips the tests that need it, saying so.
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

// common is what the tests share: made by the first that needs it, ended by TestMain.
type common struct {
	dir    string // short, for sockets below it
	root   string // the module's
	binary func() (string, error)
	peer   func() (string, error) // bare distribution
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

// run makes what is shared, runs the tests and ends what they left running.
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
			if built := os.Getenv("COUNTERSIGN_TEST_BINARY"); built != "" { // such as a release's
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

// buildFlags adds the race detector to the server under test where COUNTERSIGN_TEST_RACE asks for it; it makes the server several
// times slower.
func buildFlags() []string {
	if os.Getenv("COUNTERSIGN_TEST_RACE") != "" {
		return []string{"-race"}
	}
	return nil
}

// soaking tells whether the long form of the load and kill tests is asked for.
func soaking() bool { return os.Getenv("COUNTERSIGN_SOAK") != "" }

// need skips the test when a program is not installed.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed; tools/install-test-tools.sh says how to get it", program)
		}
	}
}

// environment is what a client gets: a path, a home of its own, plain English, and what is added.
func environment(home string, added ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LANG=C.UTF-8", "TMPDIR=" + os.TempDir()}, added...)
}

// output runs a program to its end and returns what it wrote on both outputs. A failure is the test's to judge.
func output(t *testing.T, env []string, program string, arguments ...string) (string, error) {
	t.Helper()
	command := exec.CommandContext(t.Context(), program, arguments...)
	command.Env = env
	said, err := command.CombinedOutput()
	return string(said), err
}

// must runs a program that has to succeed and returns what it wrote.
func must(t *testing.T, env []string, program string, arguments ...string) string {
	t.Helper()
	said, err := output(t, env, program, arguments...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(arguments, " "), err, said)
	}
	return said
}

// write makes a file below the test's directory and returns its path.
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
