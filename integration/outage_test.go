package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/pgtest"
)

// outage is how long a store is away in these tests.
func outage() time.Duration {
	if soaking() {
		return 75 * time.Second
	}
	return 8 * time.Second
}

// slowService adds a signing service whose script takes its time, and says in a file when it begins.
func (c *cluster) slowService(t *testing.T, k *key, seconds int) (service, began string) {
	t.Helper()
	need(t, "skopeo")
	began = filepath.Join(t.TempDir(), "began")
	script := write(t, filepath.Join(t.TempDir(), "slow.sh"), fmt.Sprintf(`#!/bin/sh
if [ "$REFERENCE" != test ]; then echo x >> %s; sleep %d; fi
skopeo standalone-sign "$1" "$REFERENCE" "$PULP_SIGNING_KEY_FINGERPRINT" --output "$SIG_PATH" >/dev/null && printf '{"signature_path": "%%s"}\n' "$SIG_PATH"
`, began, seconds), 0o755)
	c.run(t, "add-signing-service", "slow", script, k.id, "--gnupghome", k.home)
	return text(c.servers[0].list(t, signingServices+"?name=slow").Results[0]["pulp_href"]), began
}

// pushSigned pushes an image and asks for a signature. It returns the task.
func (c *cluster) pushSigned(t *testing.T, name, tag, service string) (pushed, string) {
	t.Helper()
	s := c.servers[0]
	image, err := s.pushTiny(t, name, tag, name+tag)
	if err != nil {
		t.Fatal(err)
	}
	return image, s.sign(t, text(s.repository(t, name)["pulp_href"]), object{"manifest_signing_service": service})
}

// TestPostgresIsAway takes the database away from servers and workers: they say so, stay, and go on when it is back.
func TestPostgresIsAway(t *testing.T) {
	t.Parallel()
	own := pgtest.NewOwn(t)
	k := keyHome(t)
	k.generate(t, "ed25519", "")
	c := startClusterOn(t, own.URL(), 2, "COUNTERSIGN_TASK_LEASE=2s")
	c.run(t, "add-signing-service", "cluster", "--openpgp-key", k.secret(t, ""))
	s := c.servers[0]
	service := text(s.list(t, signingServices).Results[0]["pulp_href"])
	image, err := s.pushTiny(t, "away/app", "v1", "before")
	if err != nil {
		t.Fatal(err)
	}
	own.Kill()
	began := time.Now()
	for time.Since(began) < outage() {
		status, header, body := s.do(t, http.MethodGet, "/v2/away/app/manifests/v1", http.Header{"Accept": {ociManifest}}, nil)
		var oci struct {
			Errors []struct{ Code, Message string }
		}
		if err := json.Unmarshal(body, &oci); status != http.StatusServiceUnavailable || err != nil || len(oci.Errors) != 1 || oci.Errors[0].Code != "UNAVAILABLE" || header.Get("Retry-After") == "" {
			t.Fatalf("a pull without the database: %d %v %s", status, header, body)
		}
		if strings.Contains(string(body), "127.0.0.1") || strings.Contains(string(body), "dial") {
			t.Errorf("the answer says too much: %s", body)
		}
		if _, err := s.pushTiny(t, "away/app", "v2", "without"); err == nil || !strings.Contains(err.Error(), "503") {
			t.Fatalf("a push without the database: %v", err)
		}
		var drf struct{ Detail string }
		status, _, body = s.do(t, http.MethodGet, apiRoot+"tasks/", nil, nil)
		if err := json.Unmarshal(body, &drf); status != http.StatusServiceUnavailable || err != nil || drf.Detail == "" {
			t.Fatalf("the API without the database: %d %s", status, body)
		}
		status, _, body = s.do(t, http.MethodGet, apiRoot+"status/", nil, nil)
		if status != http.StatusOK || !strings.Contains(string(body), `"database_connection":{"connected":false}`) {
			t.Errorf("the status without the database: %d %s", status, body)
		}
		if status, _, _ = s.do(t, http.MethodGet, apiRoot+"livez/", nil, nil); status != http.StatusOK {
			t.Errorf("livez: %d", status)
		}
		if status, _, _ = s.do(t, http.MethodGet, apiRoot+"readyz/", nil, nil); status != http.StatusServiceUnavailable {
			t.Errorf("readyz: %d", status)
		}
		time.Sleep(time.Second)
	}
	own.Start(t)
	again(t, "a push when the database is back", func() error {
		_, err := s.pushTiny(t, "away/app", "v2", "without")
		return err
	})
	s.isServed(t, "away/app", image)
	for _, w := range c.workers {
		if w.Ended() {
			t.Error("a worker did not survive")
		}
	}
	within(t, "the workers are online again", func() bool {
		online, _ := s.get(t, apiRoot+"status/")["online_workers"].([]any)
		return len(online) == len(c.workers)
	})
	_, task := c.pushSigned(t, "away/app", "v3", service)
	if ended := s.finished(t, task); ended["state"] != "completed" {
		t.Errorf("a task afterwards: %v", ended)
	}
	within(t, "the workers say what they can sign with", func() bool {
		for _, w := range s.list(t, apiRoot+"workers/?online=true").Results {
			if fmt.Sprint(w["signing_services"]) != "[cluster]" {
				return false
			}
		}
		return true
	})
}

// TestRedisIsAway takes the queue away: pulls and pushes go on, and tasks by the sweep.
func TestRedisIsAway(t *testing.T) {
	t.Parallel()
	k := keyHome(t)
	k.generate(t, "ed25519", "")
	c := startCluster(t, 2)
	c.run(t, "add-signing-service", "cluster", "--openpgp-key", k.secret(t, ""))
	s := c.servers[0]
	service := text(s.list(t, signingServices).Results[0]["pulp_href"])
	c.redis.kill()
	began := time.Now()
	for n := 0; time.Since(began) < outage(); n++ {
		image, task := c.pushSigned(t, "away/app", fmt.Sprintf("v%d", n), service)
		if ended := s.finished(t, task); ended["state"] != "completed" {
			t.Errorf("a task without Redis: %v", ended)
		}
		c.servers[1].isServed(t, "away/app", image)
		if got := fmt.Sprint(s.get(t, apiRoot+"status/")["redis_connection"]); got != "map[connected:false]" {
			t.Errorf("the status without Redis: %s", got)
		}
	}
	c.redis.start(t)
	within(t, "the status has Redis again", func() bool {
		return fmt.Sprint(s.get(t, apiRoot+"status/")["redis_connection"]) == "map[connected:true]"
	})
	_, task := c.pushSigned(t, "away/app", "after", service)
	if ended := s.finished(t, task); ended["state"] != "completed" {
		t.Errorf("a task afterwards: %v", ended)
	}
	for _, w := range c.workers {
		if w.Ended() {
			t.Error("a worker did not survive")
		}
	}
}

// TestAFencedWorkerCommitsNothing stops a worker in the middle of a signature until another has taken its task and ended it. When it goes on, what it has made is not stored,
// and it takes new tasks.
func TestAFencedWorkerCommitsNothing(t *testing.T) {
	t.Parallel()
	own := pgtest.NewOwn(t)
	k := keyNamed(t, "trusted")
	c := startClusterOn(t, own.URL(), 1, "COUNTERSIGN_TASK_LEASE=2s", k.env())
	db := watchTasks(t, own.URL())
	service, file := c.slowService(t, k, 3)
	image, task := c.pushSigned(t, "fenced/app", "v1", service)
	s := c.servers[0]
	within(t, "the script runs", func() bool { return fileSize(file) > 0 })
	frozen := c.workers[0]
	signal(t, frozen, syscall.SIGSTOP)
	c.addWorker(t)
	if ended := s.finished(t, task); ended["state"] != "completed" {
		t.Errorf("the task: %v", ended)
	}
	signal(t, frozen, syscall.SIGCONT)
	time.Sleep(2 * time.Second) // it sees what has become of its task
	c.workers[1].Kill()
	_, next := c.pushSigned(t, "fenced/app", "v2", service)
	if ended := s.finished(t, next); ended["state"] != "completed" {
		t.Errorf("the next task of the worker that was stopped: %v", ended)
	}
	if completed, attempts := checkSeen(t, db); completed != 2 || attempts != 3 {
		t.Errorf("%d tasks completed in %d attempts, want 2 in 3", completed, attempts)
	}
	if n := len(s.signatures(t, "fenced/app", image.name)); n != 1 {
		t.Errorf("%d signatures, want 1", n)
	}
}

// TestAWorkerDrains ends a worker with SIGTERM in the middle of a task: the task ends first, if it does in time; else it goes back, to be run by another.
func TestAWorkerDrains(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		grace    string
		seconds  int
		attempts int
	}{
		"in time":  {"20s", 3, 1},
		"too long": {"1s", 6, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own := pgtest.NewOwn(t)
			k := keyNamed(t, "trusted")
			c := startClusterOn(t, own.URL(), 1, "COUNTERSIGN_SHUTDOWN_GRACE="+tt.grace, k.env())
			db := watchTasks(t, own.URL())
			service, file := c.slowService(t, k, tt.seconds)
			_, task := c.pushSigned(t, "drain/app", "v1", service)
			within(t, "the script runs", func() bool { return fileSize(file) > 0 })
			if err := c.workers[0].Stop(); err != nil {
				t.Error(err)
			}
			if left := c.servers[0].list(t, apiRoot+"workers/").Count; left != 0 {
				t.Errorf("%d workers are listed after the only one has ended", left)
			}
			c.addWorker(t)
			if ended := c.servers[0].finished(t, task); ended["state"] != "completed" {
				t.Errorf("the task: %v", ended)
			}
			if completed, attempts := checkSeen(t, db); completed != 1 || attempts != tt.attempts {
				t.Errorf("%d tasks completed in %d attempts, want 1 in %d", completed, attempts, tt.attempts)
			}
			var losses int
			if err := db.QueryRowContext(t.Context(), `SELECT SUM(losses) FROM task`).Scan(&losses); err != nil || losses != 0 {
				t.Errorf("%d losses, %v, want none: it was given back", losses, err)
			}
		})
	}
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
