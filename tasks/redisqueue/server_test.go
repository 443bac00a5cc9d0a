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

	"github.com/countersign/countersign/tasks/redisqueue"
)

// server is a redis-server of one test, on a port and in a directory of its own.
type server struct {
	port int
	args []string
	out  bytes.Buffer
	mu   sync.Mutex // guards out, which the program writes
	cmd  *exec.Cmd
}

// Write takes what the program says.
func (s *server) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

// newServer prepares a server and does not start it.
func newServer(t *testing.T, args ...string) *server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("redis-server is not installed; tools/install-test-tools.sh installs it")
	}
	port := freePort(t)
	s := &server{port: port, args: append([]string{
		"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", t.TempDir(), "--save", "", "--appendonly", "no", "--daemonize", "no",
	}, args...)}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Logf("redis-server said:\n%s", s.out.String())
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

// freePort is one that nobody listens on, with room for a cluster's bus beside it. It is none of those that systems give to connections:
// one who dials a server that is away would get it, and speak with himself.
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

// start starts the server and waits until it listens.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.cmd = exec.Command("redis-server", s.args...)
	s.cmd.Stdout, s.cmd.Stderr = s, s
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "redis-server listens", func() error {
		c, err := net.Dial("tcp", s.addr())
		if err == nil {
			c.Close()
		}
		return err
	})
}

// kill is kill -9.
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

// admin is a client beside the queue's.
func (s *server) admin(t *testing.T) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.addr()})
	t.Cleanup(func() { c.Close() })
	return c
}

// open opens a queue that lives as long as its test.
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

// long is how long something may take that ought to happen soon; bound is how long a method may take when Redis is away.
const long, bound = 3 * time.Minute, 20 * time.Second

func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("%s: still %v", what, err)
}

// bounded fails if f takes longer than any method may.
func bounded(t *testing.T, what string, f func()) {
	t.Helper()
	before := time.Now()
	f()
	if took := time.Since(before); took > bound {
		t.Errorf("%s took %v", what, took)
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
