package integration

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/pgtest"
)

// outage returns the time for which a store is stopped in these tests.
func outage() time.Duration {
	if soaking() {
		return 75 * time.Second
	}
	return 10 * time.Second
}

// slowService adds a signing service with a slow script, which records its start in a file.
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

// pushSigned pushes an image and starts a sign task, which it returns.
func (c *cluster) pushSigned(t *testing.T, name, tag, service string) (pushed, string) {
	t.Helper()
	s := c.servers[0]
	image, err := s.pushTiny(t, name, tag, name+tag)
	if err != nil {
		t.Fatal(err)
	}
	return image, s.sign(t, text(s.repository(t, name)["pulp_href"]), object{"manifest_signing_service": service})
}

// bearer gets a token for pulls from a repository and returns its Authorization header.
func (s *server) bearer(t *testing.T, name string) http.Header {
	t.Helper()
	var out struct{ Token string }
	s.call(t, http.MethodGet, "/token/?service="+s.host+"&scope=repository:"+name+":pull", nil, http.StatusOK, &out)
	return http.Header{"Authorization": {"Bearer " + out.Token}}
}

// isAway checks that all paths of a server answer that its database is unavailable, without further details.
func (s *server) isAway(t *testing.T, token http.Header, name string, image pushed) {
	t.Helper()
	var oci struct {
		Errors []struct{ Code, Message string }
	}
	manifest := "/v2/" + name + "/manifests/" + image.tag
	holder := api{base: s.base}
	for what, ask := range map[string]struct {
		api
		method, path string
		header       http.Header
	}{
		"a manifest":            {s.api, http.MethodGet, manifest, nil},
		"a manifest by a token": {holder, http.MethodGet, manifest, token},
		"a blob by a token":     {holder, http.MethodGet, "/v2/" + name + "/blobs/" + image.blobs[0], token},
		"an upload":             {s.api, http.MethodPost, "/v2/" + name + "/blobs/uploads/", nil},
		"a token":               {s.api, http.MethodGet, "/token/?service=" + s.host + "&scope=repository:" + name + ":pull", nil},
		"signatures":            {s.api, http.MethodGet, "/extensions/v2/" + name + "/signatures/" + image.name, nil},
	} {
		status, header, body := ask.do(t, ask.method, ask.path, ask.header, nil)
		if err := json.Unmarshal(body, &oci); status != http.StatusServiceUnavailable || err != nil || len(oci.Errors) != 1 || oci.Errors[0].Code != "UNAVAILABLE" || header.Get("Retry-After") == "" {
			t.Errorf("%s without the database: %d %v %s", what, status, header, body)
		}
		if strings.Contains(string(body), "127.0.0.1") || strings.Contains(string(body), "dial") {
			t.Errorf("%s: the answer has too many details: %s", what, body)
		}
	}
	if status, _, body := s.do(t, http.MethodHead, manifest, nil, nil); status != http.StatusServiceUnavailable || len(body) != 0 {
		t.Errorf("HEAD without the database: %d %s", status, body)
	}
	var drf struct{ Detail string }
	for _, path := range []string{"tasks/", "repositories/container/container-push/", "workers/"} {
		status, _, body := s.do(t, http.MethodGet, apiRoot+path, nil, nil)
		if err := json.Unmarshal(body, &drf); status != http.StatusServiceUnavailable || err != nil || drf.Detail != "The database does not answer." {
			t.Errorf("%s without the database: %d %s", path, status, body)
		}
	}
	status, _, body := s.do(t, http.MethodGet, apiRoot+"status/", nil, nil)
	if status != http.StatusOK || !strings.Contains(string(body), `"database_connection":{"connected":false}`) || !strings.Contains(string(body), `"redis_connection":{"connected":true}`) {
		t.Errorf("the status without the database: %d %s", status, body)
	}
	for path, want := range map[string]int{"livez/": http.StatusOK, "readyz/": http.StatusServiceUnavailable} {
		if status, _, _ = s.do(t, http.MethodGet, apiRoot+path, nil, nil); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
}

// TestPostgresIsAway stops the database while a task runs and others wait: servers and workers report it, keep running,
// and recover. The running task loses its worker once.
func TestPostgresIsAway(t *testing.T) {
	t.Parallel()
	own := pgtest.NewOwn(t)
	k := keyNamed(t, "trusted")
	c := startClusterOn(t, own.URL(), 2, "COUNTERSIGN_TASK_LEASE=2s", k.env())
	db := watchTasks(t, own.URL())
	service, file := c.slowService(t, k, 1)
	s := c.servers[0]
	var tasks []string
	image, task := c.pushSigned(t, "away/app", "v1", service)
	tasks = append(tasks, task)
	for n := range 3 { // these wait for the first
		_, task := c.pushSigned(t, "away/app", fmt.Sprintf("w%d", n), service)
		tasks = append(tasks, task)
	}
	token := s.bearer(t, "away/app")
	within(t, "the script runs", func() bool { return fileSize(file) > 0 })
	own.Kill()
	for began := time.Now(); time.Since(began) < outage() && !t.Failed(); time.Sleep(time.Second) {
		s.isAway(t, token, "away/app", image)
	}
	own.Start(t)
	again(t, "a push when the database is back", func() error {
		_, err := s.pushTiny(t, "away/app", "v2", "without")
		return err
	})
	s.isServed(t, "away/app", image)
	if status, _, _ := (api{base: s.base}).do(t, http.MethodGet, "/v2/away/app/manifests/v1", token, nil); status != http.StatusOK {
		t.Errorf("a pull by the token of before: %d", status)
	}
	for _, w := range c.workers {
		if w.Ended() {
			t.Error("a worker did not survive")
		}
	}
	_, task = c.pushSigned(t, "away/app", "v3", service)
	for n, task := range append(tasks, task) {
		if ended := s.finished(t, task); ended["state"] != "completed" {
			t.Errorf("task %d: %v", n, ended)
		}
	}
	if completed, attempts := checkSeen(t, db); completed != 5 || attempts > 6 {
		t.Errorf("%d tasks completed in %d attempts, want 5 in at most 6", completed, attempts)
	}
	within(t, "the workers are online again, and say what they can sign with", func() bool {
		online := s.list(t, apiRoot+"workers/?online=true").Results
		for _, w := range online {
			if fmt.Sprint(w["signing_services"]) != "[slow]" {
				return false
			}
		}
		return len(online) == len(c.workers)
	})
}

// TestRedisIsAway stops the queue: pulls and pushes work, and the sweep starts tasks. A cancel takes effect when the
// worker extends its lease. Workers send heartbeats regardless of the length of a lease.
func TestRedisIsAway(t *testing.T) {
	t.Parallel()
	k := keyNamed(t, "trusted")
	c := startCluster(t, 2, "COUNTERSIGN_TASK_LEASE=10m", k.env())
	never, file := c.slowService(t, k, 600)
	c.run(t, "add-signing-service", "cluster", "--openpgp-key", k.secret(t, ""))
	s := c.servers[0]
	service := text(s.list(t, signingServices+"?name=cluster").Results[0]["pulp_href"])
	before := s.list(t, apiRoot+"workers/?ordering=name").Results
	c.redis.kill()
	began := time.Now()
	_, endless := c.pushSigned(t, "away/endless", "v1", never)
	within(t, "the script runs", func() bool { return fileSize(file) > 0 })
	s.call(t, http.MethodPatch, endless, object{"state": "canceled"}, http.StatusOK, nil)
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
	if ended := s.finished(t, endless); ended["state"] != "canceled" {
		t.Errorf("a task that was canceled without Redis: %v", ended)
	}
	within(t, "the workers show that they live", func() bool {
		for n, w := range s.list(t, apiRoot+"workers/?ordering=name").Results {
			if w["last_heartbeat"] == before[n]["last_heartbeat"] {
				return false
			}
		}
		return true
	})
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

// TestAFencedWorkerCommitsNothing stops a worker in the middle of a signature until another worker has run its task.
// When the first one continues, its result is not stored, and it runs new tasks.
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
	time.Sleep(2 * time.Second) // time for the worker to notice that it lost the task
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

// TestAWorkerDrains sends SIGTERM to a worker in the middle of a task. A task that ends in time completes; otherwise it
// is requeued for another worker. The worker starts no other task.
func TestAWorkerDrains(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		grace    string
		seconds  int
		attempts string // workers that ran the task
	}{
		"in time":  {"20s", 3, "worker1"},
		"too long": {"2s", 6, "worker1 worker2"},
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
			if _, err := c.servers[0].pushTiny(t, "drain/other", "v1", "other"); err != nil {
				t.Fatal(err)
			}
			other := text(c.servers[0].repository(t, "drain/other")["pulp_href"])
			signal(t, c.workers[0], syscall.SIGTERM)
			time.Sleep(200 * time.Millisecond) // time for the signal to arrive
			later := c.servers[0].sign(t, other, object{"manifest_signing_service": service})
			if c.workers[0].Ended() {
				t.Error("the worker did not wait for its task")
			}
			if err := c.workers[0].Stop(); err != nil {
				t.Error(err)
			}
			if left := c.servers[0].list(t, apiRoot+"workers/").Count; left != 0 {
				t.Errorf("%d workers are listed after the only one has ended", left)
			}
			c.addWorker(t)
			for task, want := range map[string]string{task: tt.attempts, later: "worker2"} {
				if ended := c.servers[0].finished(t, task); ended["state"] != "completed" {
					t.Errorf("the task: %v", ended)
				}
				if got := runBy(t, db, task); got != want {
					t.Errorf("the task was run by %q, want %q", got, want)
				}
			}
			checkSeen(t, db)
			var losses int
			if err := db.QueryRowContext(t.Context(), `SELECT SUM(losses) FROM task`).Scan(&losses); err != nil || losses != 0 {
				t.Errorf("%d losses, %v, want none: it was given back", losses, err)
			}
		})
	}
}

// runBy returns the workers that ran a task, in order.
func runBy(t *testing.T, db *sql.DB, href string) (workers string) {
	t.Helper()
	err := db.QueryRowContext(t.Context(), `SELECT string_agg(writer, ' ' ORDER BY n) FROM seen WHERE state = 'running' AND task = $1`, path.Base(href)).Scan(&workers)
	if err != nil {
		t.Fatal(err)
	}
	return workers
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
