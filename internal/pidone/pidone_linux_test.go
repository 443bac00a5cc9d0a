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

	"github.com/countersign/countersign/internal/pidone"
)

// role says what the test binary does instead of running tests, when it is started as process 1 of a namespace and below that.
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

// play is the program below process 1.
func play(part string) int {
	switch part {
	case "copy": // standard files and arguments
		in, err := io.ReadAll(os.Stdin)
		if err != nil {
			return 98
		}
		fmt.Fprintf(os.Stdout, "%s %s", os.Args[len(os.Args)-1], in)
		fmt.Fprint(os.Stderr, "told")
		return 7
	case "signal": // tells which signal came
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
		fmt.Fprintln(os.Stdout, "ready")
		return 10 + int((<-c).(syscall.Signal))
	case "wait":
		fmt.Fprintf(os.Stdout, "%d\n", os.Getpid())
		_, _ = io.ReadAll(os.Stdin)
		return 0
	case "orphans": // each call must see the status of its own child, while orphans end
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

// start starts the test binary in a role, as process 1 of a PID namespace of its own.
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
	var told bytes.Buffer
	c.Stderr = &told
	if err := c.Start(); errors.Is(err, syscall.EPERM) {
		t.Skipf("PID namespaces are not permitted here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	return c, in, &told, out
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

// TestTheProgramSeesItsFiles: arguments, standard files and the exit status pass through process 1.
func TestTheProgramSeesItsFiles(t *testing.T) {
	t.Parallel()
	c, in, told, out := start(t, "copy")
	if _, err := io.WriteString(in, "input"); err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	said, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	if got := status(t, c); got != 7 || string(said) != "last argument input" || told.String() != "told" {
		t.Errorf("status %d, %q, %q", got, said, told)
	}
}

// TestSignalsArePassedOn sends process 1 signals, which the kernel would drop for one that does not handle them.
func TestSignalsArePassedOn(t *testing.T) {
	t.Parallel()
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2} {
		c, _, told, out := start(t, "signal")
		if line := readLine(t, out); line != "ready" {
			t.Fatalf("%q, %s", line, told)
		}
		if err := c.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if got := status(t, c); got != 10+int(s) {
			t.Errorf("%v: status %d: %s", s, got, told)
		}
	}
}

// TestAKilledProgramEndsTheContainer: process 1 ends with 128 and the signal that killed the program.
func TestAKilledProgramEndsTheContainer(t *testing.T) {
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

// TestOrphansAreReaped: a program leaves 200 orphans, whose states nobody but process 1 can take, while it sees the status of each child of its own.
func TestOrphansAreReaped(t *testing.T) {
	t.Parallel()
	c, in, told, out := start(t, "orphans")
	if line := readLine(t, out); line != "ready" {
		t.Fatalf("%q, %s", line, told)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		left := children(t, c.Process.Pid)
		if len(left) == 1 && left[0].state != "Z" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("process 1 still has %d children", len(left))
		}
	}
	_ = in.Close()
	if got := status(t, c); got != 0 {
		t.Errorf("status %d: %s", got, told)
	}
}

type process struct {
	pid   int
	state string
}

// children returns the processes whose parent is pid, with those that wait to be reaped.
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
