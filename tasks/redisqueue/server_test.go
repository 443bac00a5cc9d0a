package redisqueue_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/tasks/redisqueue"
)

// server is a redis-server of one test, with its own port and directory.
type server struct {
	port int
	args []string
	out  bytes.Buffer
	mu   sync.Mutex // guards out, to which the process writes
	cmd  *exec.Cmd
}

// Write receives the output of the process.
func (s *server) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

// newServer prepares a server without starting it.
func newServer(t *testing.T, args ...string) *server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("redis-server is not installed; tools/install-test-tools.sh installs it")
	}
	port := freePort(t)
	s := &server{port: port, args: append([]string{
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", t.TempDir(),
		"--save", "", "--appendonly", "no", "--daemonize", "no",
	}, args...)}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Logf("output of redis-server:\n%s", s.out.String())
		}
	})
	return s
}

func startServer(t *testing.T, args ...string) *server {
	t.Helper()
	s := newServer(t, args...)
	s.start(t)
	return s
}

var portsTaken sync.Map

// freePort returns an unused port whose cluster bus port (10000 higher) is unused, too. It avoids the range of
// ephemeral ports: a client that connects to a port of that range on which nothing listens may be connected to
// itself.
func freePort(t *testing.T) int {
	t.Helper()
	const bus = 10000
	for {
		port := 11000 + rand.IntN(11000)
		if _, taken := portsTaken.LoadOrStore(port, true); !taken && free(port) && free(port+bus) {
			return port
		}
	}
}

func free(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err == nil {
		l.Close()
	}
	return err == nil
}

func (s *server) addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

func (s *server) url() string { return "redis://" + s.addr() }

// start starts the server and waits until it accepts connections.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.cmd = exec.Command("redis-server", s.args...)
	s.cmd.Stdout, s.cmd.Stderr = s, s
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually.NoError(t, long, func() error {
		c, err := net.Dial("tcp", s.addr())
		if err == nil {
			c.Close()
		}
		return err
	}, "redis-server accepts connections")
}

// kill kills the server like kill -9.
func (s *server) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

func (s *server) signal(t *testing.T, sig os.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// admin returns a client that is independent of the queue's.
func (s *server) admin(t *testing.T) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.addr()})
	t.Cleanup(func() { c.Close() })
	return c
}

// open returns a queue that is closed when the test ends.
func open(t *testing.T, o redisqueue.Options) *redisqueue.Queue {
	t.Helper()
	q, err := redisqueue.New(t.Context(), o)
	if err != nil {
		t.Fatalf("New = %v", err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
	return q
}

// long is the limit for events that must happen; bound is the limit for each method while Redis is unavailable.
const long, bound = 3 * time.Minute, 20 * time.Second

// bounded fails the test if f takes longer than bound.
func bounded(t *testing.T, name string, f func()) {
	t.Helper()
	before := time.Now()
	f()
	if took := time.Since(before); took > bound {
		t.Errorf("%s took %v, want at most %v", name, took, bound)
	}
}

func path(t *testing.T, name string, content []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}
