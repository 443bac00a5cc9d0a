// Package process builds programs of this module and runs them as servers. The integration tests and the benchmark
// use it.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Build compiles the package at path, relative to the root of the module, into dir and returns the path of the
// program. Further arguments are passed to go build.
func Build(ctx context.Context, dir, path string, arguments ...string) (string, error) {
	root, err := ModuleRoot(ctx)
	if err != nil {
		return "", err
	}
	name := filepath.Base(path)
	if path == "." {
		name = "countersign"
	}
	program := filepath.Join(dir, name)
	line := append([]string{"build", "-o", program}, arguments...)
	build := exec.CommandContext(ctx, "go", append(line, "./"+path)...)
	build.Dir = root
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", path, err, output)
	}
	return program, nil
}

// ModuleRoot returns the root directory of the module that contains the working directory.
func ModuleRoot(ctx context.Context) (string, error) {
	output, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	file := strings.TrimSpace(string(output))
	if err != nil || file == "" || file == os.DevNull {
		return "", fmt.Errorf("find the root of the module: %w", errors.Join(err, errors.New(file)))
	}
	return filepath.Dir(file), nil
}

// given contains the addresses that FreeAddress has returned.
var given sync.Map

// FreeAddress returns a loopback address on which nothing listens, a different one for each call. Its port is below
// the kernel's range of client ports, so a server that is killed and started again finds the port free.
func FreeAddress() (string, error) {
	const first, last, attempts = 20000, 32000, 100
	for range attempts {
		address := fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(last-first))
		if _, taken := given.LoadOrStore(address, true); taken {
			continue
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		if err := listener.Close(); err != nil {
			return "", err
		}
		return address, nil
	}
	return "", fmt.Errorf("no free port found between %d and %d", first, last)
}

// Patience is the time that tests wait for an event. It is long, for slow and busy machines: only a failing test
// waits for all of it.
const Patience = 3 * time.Minute

// Command describes a server to start.
type Command struct {
	Program   string
	Arguments []string
	Env       []string             // the complete environment
	Log       string               // file to which both outputs are appended
	Ready     []string             // URLs that answer 200 or 401 when the server is ready
	Patience  time.Duration        // time to become ready; 0: the constant Patience
	Attr      *syscall.SysProcAttr // nil: a new process group
}

// Server is a running program.
type Server struct {
	command Command
	cmd     *exec.Cmd
	ended   chan struct{} // closed when the program has ended
	err     error         // of Wait; read it after ended
}

// Start starts the program and waits until it is ready. If it does not become ready, the error contains the end of
// the log.
func Start(ctx context.Context, c Command) (*Server, error) {
	log, err := os.OpenFile(c.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", c.Program, err)
	}
	defer log.Close()
	cmd := exec.Command(c.Program, c.Arguments...)
	cmd.Env = c.Env
	cmd.Stdout, cmd.Stderr = log, log
	// Ctrl-C at the terminal must not reach the servers: the tests stop them.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.Attr != nil {
		cmd.SysProcAttr = c.Attr
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Program, err)
	}
	s := &Server{command: c, cmd: cmd, ended: make(chan struct{})}
	go func() {
		s.err = cmd.Wait()
		close(s.ended)
	}()
	if err := s.await(ctx); err != nil {
		s.Kill()
		return nil, fmt.Errorf("%s: %w\n%s", filepath.Base(c.Program), err, s.LogTail())
	}
	return s, nil
}

// await polls the URLs in Ready until each has answered.
func (s *Server) await(ctx context.Context) error {
	patience := s.command.Patience
	if patience == 0 {
		patience = Patience
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for _, url := range s.command.Ready {
		for !answers(ctx, url) {
			select {
			case <-s.ended:
				return fmt.Errorf("ended before it was ready: %w", s.err)
			case <-ctx.Done():
				return fmt.Errorf("%s did not answer within %v", url, patience)
			case <-tick.C:
			}
		}
	}
	return nil
}

func answers(ctx context.Context, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK || response.StatusCode == http.StatusUnauthorized
}

// Stop sends SIGTERM and waits for the end of the program. It returns an error if the exit status is not 0, or if the
// program does not end within Patience; it then kills the program.
func (s *Server) Stop() error {
	if s.Ended() {
		return nil
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", s.command.Program, err)
	}
	select {
	case <-s.ended:
		return s.err
	case <-time.After(Patience):
		s.Kill()
		return fmt.Errorf("%s did not end on SIGTERM", s.command.Program)
	}
}

// Kill ends the program with SIGKILL and waits for its end.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // fails only if the program has ended
	<-s.ended
}

// Ended reports whether the program has ended.
func (s *Server) Ended() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// PID returns the process id.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// LogTail returns the last 16 KiB of the log.
func (s *Server) LogTail() string {
	const most = 16 << 10
	text, err := os.ReadFile(s.command.Log)
	if err != nil {
		return "no log: " + err.Error()
	}
	if len(text) > most {
		text = text[len(text)-most:]
		if _, rest, ok := bytes.Cut(text, []byte("\n")); ok {
			text = rest
		}
	}
	return string(text)
}
