package integration

import (
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/pgtest"
)

// redisServer is a redis-server for one test, without persistence.
type redisServer struct {
	address string
	dir     string
	cmd     *exec.Cmd
}

func startRedis(t *testing.T) *redisServer {
	t.Helper()
	need(t, "redis-server", "redis-cli")
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	r := &redisServer{address: address, dir: t.TempDir()}
	r.start(t)
	t.Cleanup(r.kill)
	return r
}

func (r *redisServer) start(t *testing.T) {
	t.Helper()
	host, port, _ := strings.Cut(r.address, ":")
	r.cmd = exec.CommandContext(t.Context(), "redis-server", "--port", port, "--bind", host, "--dir", r.dir, "--save", "", "--appendonly", "no")
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	within(t, "Redis answers", func() bool { return r.cli(t, "ping") == nil })
}

func (r *redisServer) cli(t *testing.T, arguments ...string) error {
	host, port, _ := strings.Cut(r.address, ":")
	_, err := output(t, environment(r.dir), "redis-cli", append([]string{"-h", host, "-p", port}, arguments...)...)
	return err
}

func (r *redisServer) kill() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}

// cluster has several processes that share a PostgreSQL database, a Redis and a storage directory.
type cluster struct {
	redis    *redisServer
	database string // URL
	servers  []*server
	env      []string // of all processes
	workers  []*process.Server
	started  int
}

// startCluster starts two servers that run no tasks, and a number of workers.
func startCluster(t *testing.T, workers int, env ...string) *cluster {
	t.Helper()
	return startClusterOn(t, pgtest.Database(t), workers, env...)
}

// startClusterOn is startCluster with a given database.
func startClusterOn(t *testing.T, database string, workers int, env ...string) *cluster {
	t.Helper()
	c := &cluster{redis: startRedis(t), database: database}
	c.env = append([]string{
		"COUNTERSIGN_DATABASE_URL=" + database, "COUNTERSIGN_REDIS_URL=redis://" + c.redis.address, "COUNTERSIGN_STORAGE=filesystem:" + t.TempDir(),
	}, env...)
	c.run(t, "migrate")
	first := startServer(t, append(c.env, "COUNTERSIGN_WORKERS=0")...)
	c.env = append(c.env, "COUNTERSIGN_PUBLIC_URL=http://"+first.host)
	c.servers = []*server{first, startServer(t, append(c.env, "COUNTERSIGN_WORKERS=0")...)}
	for range workers {
		c.addWorker(t)
	}
	within(t, "all workers are online", func() bool {
		online, _ := first.get(t, apiRoot+"status/")["online_workers"].([]any)
		return len(online) >= workers
	})
	return c
}

// run runs a command of Countersign with the cluster's settings.
func (c *cluster) run(t *testing.T, arguments ...string) string {
	t.Helper()
	binary, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return must(t, environment(dir, append(c.env, "COUNTERSIGN_DATA="+dir)...), binary, arguments...)
}

// addWorker starts a worker. The names of workers are worker1, worker2 and so on.
func (c *cluster) addWorker(t *testing.T) {
	t.Helper()
	binary, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	c.started++
	dir := t.TempDir()
	w, err := process.Start(t.Context(), process.Command{
		Program: binary, Arguments: []string{"worker"}, Log: filepath.Join(dir, "log"),
		Env: environment(dir, append(c.env, "COUNTERSIGN_DATA="+dir, "COUNTERSIGN_WORKERS=4",
			fmt.Sprintf("COUNTERSIGN_DATABASE_URL=%s&application_name=worker%d", c.database, c.started))...),
	})
	if err != nil {
		t.Fatal(err)
	}
	c.workers = append(c.workers, w)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("a worker's log:\n%s", w.LogTail())
		}
		w.Kill()
	})
}

// TestTwoServersOnOneDatabase pushes to one repository through two servers at the same time, and starts uploads at one
// server and finishes them at the other.
func TestTwoServersOnOneDatabase(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 0)
	one, two := c.servers[0], c.servers[1]
	const clients, each = 8, 10
	var pushers sync.WaitGroup
	images := make([][]pushed, clients)
	failed := make([]error, clients)
	for n := range clients {
		pushers.Go(func() {
			for i := range each {
				image, err := c.servers[(n+i)%2].pushTiny(t, "both/app", fmt.Sprintf("c%d-%d", n, i), fmt.Sprintf("shared by all %d", i))
				failed[n] = errors.Join(failed[n], err)
				images[n] = append(images[n], image)
			}
		})
	}
	pushers.Wait()
	if err := errors.Join(failed...); err != nil {
		t.Fatal(err)
	}
	repository := text(one.repository(t, "both/app")["pulp_href"])
	latest := one.latest(t, repository)
	if latest["number"] != float64(clients*each) || count(latest, "present", "container.tag") != clients*each || count(latest, "present", "container.manifest") != each {
		t.Errorf("after %d pushes: %v", clients*each, latest)
	}
	countsMatchLists(t, two.api, latest)
	for n := range images {
		for i, image := range images[n] {
			c.servers[(n+i+1)%2].isServed(t, "both/app", image) // by the other server
		}
	}
	// Each request of this upload goes to the other server.
	for _, size := range []int{1_000, 200_000} {
		content := []byte(strings.Repeat("x", size))
		_, header, _ := one.do(t, http.MethodPost, "/v2/both/app/blobs/uploads/", nil, nil)
		at := header.Get("Location")
		for i, part := range [][]byte{content[:size/3], content[size/3 : size/2], content[size/2:]} {
			status, header, answer := c.servers[(i+1)%2].do(t, http.MethodPatch, at, http.Header{"Content-Type": {"application/octet-stream"}}, part)
			if status != http.StatusAccepted {
				t.Fatalf("part %d of %d bytes: %d %s", i, size, status, answer)
			}
			at = header.Get("Location")
		}
		digest := describe("", content).Digest
		if status, _, answer := one.do(t, http.MethodPut, at+"?digest="+digest, nil, nil); status != http.StatusCreated {
			t.Errorf("the end of %d bytes: %d %s", size, status, answer)
		}
		if status, _, blob := two.do(t, http.MethodGet, "/v2/both/app/blobs/"+digest, nil, nil); status != http.StatusOK || describe("", blob).Digest != digest {
			t.Errorf("%d bytes: %d", size, status)
		}
	}
}

// TestAServerNeedsItsSchema starts a server on an empty PostgreSQL database.
func TestAServerNeedsItsSchema(t *testing.T) {
	t.Parallel()
	binary, err := shared.binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	env := environment(dir, "COUNTERSIGN_DATA="+dir, "COUNTERSIGN_LISTEN=127.0.0.1:1", "COUNTERSIGN_DATABASE_URL="+pgtest.Database(t))
	for _, verb := range []string{"serve", "list-signing-services"} {
		if said, err := output(t, env, binary, verb); err == nil || !strings.Contains(said, "countersign migrate") {
			t.Errorf("%s on an empty database: %v %s", verb, err, said)
		}
	}
	must(t, env, binary, "migrate")
	must(t, env, binary, "migrate")
	must(t, env, binary, "list-signing-services")
	if said, err := output(t, env, binary, "worker"); err == nil || !strings.Contains(said, "COUNTERSIGN_REDIS_URL") {
		t.Errorf("a worker without Redis: %v %s", err, said)
	}
}
