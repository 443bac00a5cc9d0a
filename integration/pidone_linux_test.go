package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// orphaning is a script that signs and leaves processes in other sessions, which the server does not kill and which end
// soon.
var orphaning = strings.Replace(seedScript, "# Create atomic", "for i in 1 2 3 4 5 6 7 8 9 10; do setsid sh -c 'sleep 0.01 & sleep 0.01' >/dev/null 2>&1 </dev/null & done\n# Create atomic", 1)

// TestPIDOne runs the server and other commands as the first process of a PID namespace, as container engines do:
// orphans of 30 runs of a script are reaped, SIGTERM ends the server, and outputs and exit statuses of commands are
// passed on.
func TestPIDOne(t *testing.T) {
	t.Parallel()
	namespace := &syscall.SysProcAttr{Setpgid: true, Cloneflags: syscall.CLONE_NEWPID}
	if os.Getuid() != 0 {
		namespace.Cloneflags |= syscall.CLONE_NEWUSER
	}
	own := ownKey(t)
	s := startServer(t)
	for verb, want := range map[string]int{"version": 0, "remove-signing-service": 2} {
		c := exec.CommandContext(t.Context(), s.command.Program, verb)
		c.Env, c.SysProcAttr = s.env, namespace
		said, err := c.CombinedOutput()
		if errors.Is(err, syscall.EPERM) {
			t.Skipf("PID namespaces are not permitted here: %v", err)
		}
		if got := c.ProcessState.ExitCode(); got != want || !bytes.Contains(said, []byte("countersign")) {
			t.Errorf("%s: status %d, want %d: %s", verb, got, want, said)
		}
	}
	service := s.addService(t, "orphans", own, orphaning)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	own.endAgent(t) // the next agent starts in the namespace and is one of the orphans
	s.command.Attr = namespace
	s.start(t) // startServer's cleanup checks that SIGTERM to process 1 ends it with status 0
	for i := range 30 {
		s.tiny(t, "acme/app", strconv.Itoa(i), "one")
	}
	repository := text(s.repository(t, "acme/app")["pulp_href"])
	s.signed(t, repository, object{"manifest_signing_service": service})
	within(t, "process 1 has a running child, the server, and none to reap", func() bool {
		states := childrenOf(t, s.PID())
		return len(states) > 0 && !slices.Contains(states, "Z")
	})
}

// ownKey creates a key for this test only: gpg treats locks of processes outside its namespace as stale, and its agent
// ends with the namespace.
func ownKey(t *testing.T) *key {
	t.Helper()
	need(t, "gpg", "gpgconf", "gpg-agent")
	dir, err := os.MkdirTemp("", "p") //nolint:usetesting // the agent's socket lies in it: the path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	k, err := newKey(t.Context(), filepath.Join(dir, "k"), "own")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.endAgent(t) })
	return k
}

func (k *key) endAgent(t *testing.T) {
	t.Helper()
	c := exec.Command("gpgconf", "--homedir", k.home, "--kill", "all")
	if said, err := c.CombinedOutput(); err != nil {
		t.Errorf("gpgconf --kill: %v\n%s", err, said)
	}
}

// childrenOf returns the states of the children of a process, including those that have not been reaped.
func childrenOf(t *testing.T, pid int) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var states []string
	for _, e := range entries {
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // not a process, or already ended
		}
		var state string
		var parent int
		if _, err := fmt.Sscan(string(stat[bytes.LastIndexByte(stat, ')')+1:]), &state, &parent); err == nil && parent == pid {
			states = append(states, state)
		}
	}
	return states
}
