package pidone_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/pidone"
)

// role names the variable that makes the test binary process 1 of a namespace, and its child, instead of running tests.
const role = "PIDONE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(role) == "":
		os.Exit(m.Run())
	case pidone.Needed():
		status, err := pidone.Run(os.Args, os.Environ())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 99
		}
		os.Exit(status)
	default:
		os.Exit(play(os.Getenv(role)))
	}
}

// play runs as the child of process 1 and returns an exit status.
func play(part string) int {
	switch part {
	case "copy": // copies standard input and the last argument
		in, err := io.ReadAll(os.Stdin)
		if err != nil {
			return 98
		}
		fmt.Fprintf(os.Stdout, "%s %s", os.Args[len(os.Args)-1], in)
		fmt.Fprint(os.Stderr, "message")
		return 7
	case "signal": // exits with 10 plus the number of the signal
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
		fmt.Fprintln(os.Stdout, "ready")
		return 10 + int((<-c).(syscall.Signal))
	case "wait":
		fmt.Fprintf(os.Stdout, "%d\n", os.Getpid())
		_, _ = io.ReadAll(os.Stdin)
		return 0
	case "orphans": // verifies that each call of os/exec gets the status of its own child while orphans end
		for i := range 100 {
			err := exec.Command("sh", "-c", "(sleep 0.01 & sleep 0.02 & exit 0) & exit "+strconv.Itoa(i)).Run()
			got := 0
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				got = exit.ExitCode()
			} else if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 97
			}
			if got != i {
				fmt.Fprintf(os.Stderr, "status %d, want %d\n", got, i)
				return 96
			}
		}
		fmt.Fprintln(os.Stdout, "ready")
		_, _ = io.ReadAll(os.Stdin)
		return 0
	}
	return 95
}

// start starts the test binary in a role as process 1 of a new PID namespace.
func start(t *testing.T, part string) (*exec.Cmd, io.WriteCloser, *bytes.Buffer, io.ReadCloser) {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], "last argument")
	c.Env = append(os.Environ(), role+"="+part)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if os.Getuid() != 0 {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
	}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	if err := c.Start(); errors.Is(err, syscall.EPERM) {
		t.Skipf("PID namespaces are not permitted here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	return c, in, &stderr, out
}

func status(t *testing.T, c *exec.Cmd) int {
	t.Helper()
	err := c.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}

func readLine(t *testing.T, out io.Reader) string {
	t.Helper()
	var line []byte
	for b := make([]byte, 1); ; line = append(line, b[0]) {
		if _, err := io.ReadFull(out, b); err != nil {
			t.Fatalf("after %q: %v", line, err)
		}
		if b[0] == '\n' {
			return string(line)
		}
	}
}

// TestRunPassesFilesAndStatus verifies that Run passes arguments, standard files and the exit status.
func TestRunPassesFilesAndStatus(t *testing.T) {
	t.Parallel()
	c, in, stderr, out := start(t, "copy")
	if _, err := io.WriteString(in, "input"); err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	stdout, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	if got := status(t, c); got != 7 || string(stdout) != "last argument input" || stderr.String() != "message" {
		t.Errorf("status %d, %q, %q", got, stdout, stderr)
	}
}

// TestRunForwardsSignals verifies that signals to process 1, which the kernel drops if they are not handled, reach
// the program.
func TestRunForwardsSignals(t *testing.T) {
	t.Parallel()
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2} {
		c, _, stderr, out := start(t, "signal")
		if line := readLine(t, out); line != "ready" {
			t.Fatalf("%q, %s", line, stderr)
		}
		if err := c.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if got := status(t, c); got != 10+int(s) {
			t.Errorf("%v: status %d: %s", s, got, stderr)
		}
	}
}

// TestRunReportsKilledProgram verifies that process 1 exits with 128 plus the number of the signal that killed the
// program.
func TestRunReportsKilledProgram(t *testing.T) {
	t.Parallel()
	c, _, _, out := start(t, "wait")
	if inside := readLine(t, out); inside == "1" {
		t.Fatal("the program is process 1")
	}
	program := children(t, c.Process.Pid)
	if len(program) != 1 {
		t.Fatalf("children of process 1: %v", program)
	}
	if err := syscall.Kill(program[0].pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := status(t, c); got != 137 {
		t.Errorf("status %d, want 137", got)
	}
}

// TestRunReapsOrphans verifies that process 1 reaps 200 orphans, and that the program gets the status of each of its
// own children.
func TestRunReapsOrphans(t *testing.T) {
	t.Parallel()
	c, in, stderr, out := start(t, "orphans")
	if line := readLine(t, out); line != "ready" {
		t.Fatalf("%q, %s", line, stderr)
	}
	eventually.True(t, time.Minute, func() bool {
		left := children(t, c.Process.Pid)
		return len(left) == 1 && left[0].state != "Z"
	}, "process 1 has only the program as a child")
	_ = in.Close()
	if got := status(t, c); got != 0 {
		t.Errorf("status %d: %s", got, stderr)
	}
}

type process struct {
	pid   int
	state string
}

// children returns the processes whose parent is pid, including zombies.
func children(t *testing.T, pid int) []process {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []process
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			found = append(found, process{id, fields[0]})
		}
	}
	return found
}
