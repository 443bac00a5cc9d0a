// Package process builds this module's programs and runs them as servers, for the black-box tests and for the benchmark.
//
// It knows programs, ports and signals; what a program speaks is its user's business.
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

// Build compiles the package of this module that lies at path (relative to the module's root, "." for the root itself) into dir and
// returns the program's path. Further arguments go to go build, before the package.
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
	if said, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", path, err, said)
	}
	return program, nil
}

// ModuleRoot is the directory of the module in which the caller's working directory lies.
func ModuleRoot(ctx context.Context) (string, error) {
	said, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	file := strings.TrimSpace(string(said))
	if err != nil || file == "" || file == os.DevNull {
		return "", fmt.Errorf("find the module's root: %w", errors.Join(err, errors.New(file)))
	}
	return filepath.Dir(file), nil
}

// given are the addresses that FreeAddress has returned.
var given sync.Map

// FreeAddress returns a loopback address on which nothing listens, and another one each time. It stays below the ports that the kernel hands to clients, so that
// a server which is killed finds its port free when it comes back.
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

// Patience is how long tests wait for something that takes moments on an idle machine. Only a failing test waits so long, so it leaves room for slow and busy machines.
const Patience = 3 * time.Minute

// Command says how to start a server and how to see that it serves.
type Command struct {
	Program   string
	Arguments []string
	Env       []string             // the whole environment
	Log       string               // file that gets both outputs, appended to
	Ready     []string             // URLs that answer 200 or 401 when the server serves
	Patience  time.Duration        // for becoming ready; the constant Patience when zero
	Attr      *syscall.SysProcAttr // nil: a process group of its own
}

// Server is a running program.
type Server struct {
	command Command
	cmd     *exec.Cmd
	ended   chan struct{} // closed when the program has ended
	err     error         // of Wait; read it after ended
}

// Start runs the program and waits until it serves. The error of one that does not holds the end of its log.
func Start(ctx context.Context, c Command) (*Server, error) {
	log, err := os.OpenFile(c.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", c.Program, err)
	}
	defer log.Close()
	cmd := exec.Command(c.Program, c.Arguments...)
	cmd.Env = c.Env
	cmd.Stdout, cmd.Stderr = log, log
	// A Ctrl-C at the terminal is for the tests: they end their servers themselves.
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

// await polls the ready URLs until each has answered.
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
				return fmt.Errorf("ended before it served: %w", s.err)
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

// Stop asks the program to end and waits for it. One that does not end within Patience is killed, and that is an error, as is an exit
// status other than 0.
func (s *Server) Stop() error {
	if s.Ended() {
		return nil
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", s.command.Program, err)
	}
	select {
	case <-s.ended:
		return s.err
	case <-time.After(Patience):
		s.Kill()
		return fmt.Errorf("%s did not end on SIGTERM", s.command.Program)
	}
}

// Kill ends the program as a power cut would, and waits until it is gone.
func (s *Server) Kill() {
	// It may have ended already; that is as good.
	_ = s.cmd.Process.Kill()
	<-s.ended
}

// Ended tells whether the program has ended.
func (s *Server) Ended() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// PID is the process id.
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
