package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/integration/process"
)

// dockerDaemon is a dockerd for the tests, without bridge and iptables, with separate directories and socket. It only
// transfers images.
type dockerDaemon struct {
	dir    string
	socket string
	cmd    *exec.Cmd
	ended  chan struct{}
}

// startDocker starts the daemon and waits until it answers.
func startDocker(ctx context.Context, dir string) (*dockerDaemon, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d := &dockerDaemon{dir: dir, socket: "unix://" + filepath.Join(dir, "sock"), ended: make(chan struct{})}
	d.cmd = exec.Command("dockerd", "--host", d.socket, "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--storage-driver", "vfs", "--iptables=false", "--ip6tables=false",
		"--bridge", "none", "--insecure-registry", "127.0.0.0/8")
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = d.cmd.Wait() // its log has the reason
		close(d.ended)
	}()
	ctx, cancel := context.WithTimeout(ctx, process.Patience)
	defer cancel()
	for {
		ping := exec.CommandContext(ctx, "docker", "--host", d.socket, "version")
		if ping.Run() == nil {
			return d, nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
			continue
		case <-d.ended:
		case <-ctx.Done():
			d.stop()
		}
		said, _ := os.ReadFile(filepath.Join(dir, "log"))
		return nil, fmt.Errorf("dockerd does not start here: %s", lastLine(string(said)))
	}
}

// stop stops the daemon by its process id.
func (d *dockerDaemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-d.ended:
	case <-time.After(process.Patience):
		_ = d.cmd.Process.Kill()
		<-d.ended
	}
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// dockerUser is a user of docker with separate credentials.
type dockerUser struct {
	daemon *dockerDaemon
	home   string
}

// newDockerUser creates a user. It starts the daemon in the first test that needs it, and skips the test if no daemon
// can run.
func newDockerUser(t *testing.T) *dockerUser {
	t.Helper()
	need(t, "docker", "dockerd")
	if os.Getuid() != 0 {
		t.Skip("dockerd needs root")
	}
	daemon, err := shared.docker()
	if err != nil {
		t.Skip(err)
	}
	return &dockerUser{daemon: daemon, home: t.TempDir()}
}

func (d *dockerUser) run(t *testing.T, arguments ...string) (string, error) {
	t.Helper()
	return output(t, environment(d.home), "docker", append([]string{"--config", filepath.Join(d.home, "docker"), "--host", d.daemon.socket}, arguments...)...)
}

func (d *dockerUser) must(t *testing.T, arguments ...string) string {
	t.Helper()
	said, err := d.run(t, arguments...)
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(arguments, " "), err, said)
	}
	return said
}
