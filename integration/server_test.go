package integration

import (
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/pgtest"
)

const adminPassword = "correct-horse-battery"

// server is a running Countersign on a free port with its own data directory.
type server struct {
	*process.Server
	api
	host    string // host:port for clients and in signatures
	data    string
	env     []string
	command process.Command
}

// startServer starts Countersign with additions to its environment and stops it at the end of the test. If the test
// fails, the end of the log is printed.
func startServer(t *testing.T, env ...string) *server {
	t.Helper()
	binary, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(address, ":")
	dir := t.TempDir()
	s := &server{host: "localhost:" + port, data: filepath.Join(dir, "data")}
	home := filepath.Join(dir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	s.env = environment(home, append([]string{
		"COUNTERSIGN_DATA=" + s.data,
		"COUNTERSIGN_LISTEN=" + address,
		"COUNTERSIGN_PUBLIC_URL=http://" + s.host,
		"COUNTERSIGN_ADMIN_PASSWORD=" + adminPassword,
	}, env...)...)
	if database := pgtest.URL(t); database != "" {
		s.env = append(s.env, "COUNTERSIGN_DATABASE_URL="+database)
		must(t, s.env, binary, "migrate")
	}
	s.api = api{base: &url.URL{Scheme: "http", Host: s.host}, user: "admin", password: adminPassword}
	s.command = process.Command{
		Program: binary, Arguments: []string{"serve"}, Env: s.env, Log: filepath.Join(dir, "log"),
		Ready: []string{"http://" + address + "/pulp/api/v3/livez/", "http://" + address + "/pulp/api/v3/readyz/"},
	}
	s.start(t)
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("the server's end: %v", err)
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.LogTail())
		}
	})
	return s
}

// start starts the server, for the first time or again after Stop or Kill.
func (s *server) start(t *testing.T) {
	t.Helper()
	running, err := process.Start(t.Context(), s.command)
	if err != nil {
		t.Fatal(err)
	}
	s.Server = running
}

// cli runs a command of Countersign on the same data directory while the server runs.
func (s *server) cli(t *testing.T, env []string, arguments ...string) (string, error) {
	t.Helper()
	said, err := output(t, append(s.env[:len(s.env):len(s.env)], env...), s.command.Program, arguments...)
	return auditLine.ReplaceAllString(said, ""), err
}

// auditLine matches the lines of the audit log that adopt and drift write to standard error.
var auditLine = regexp.MustCompile(`(?m)^time=\S+ level=INFO msg=audit who="command line" kind=command action=(adopt|compare) .*\n`)

// startPeer starts the registry distribution with its own storage and returns its URL.
func startPeer(t *testing.T) string {
	t.Helper()
	program, err := shared.peer()
	if err != nil {
		t.Fatal(err)
	}
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	peer, err := process.Start(t.Context(), process.Command{
		Program: program, Arguments: []string{"-addr", address, "-root", filepath.Join(dir, "root")},
		Env: environment(dir), Log: filepath.Join(dir, "log"), Ready: []string{"http://" + address + "/v2/"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the upstream's log:\n%s", peer.LogTail())
		}
		peer.Kill()
	})
	return "http://" + address
}
