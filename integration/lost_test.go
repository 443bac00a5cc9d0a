package integration

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/signing"
)

// watchTasks adds a trigger to the database that records each change of a task's state and the worker that made it. It
// knows workers by the names of addWorker.
func watchTasks(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	for _, text := range []string{
		`CREATE TABLE seen (n BIGSERIAL PRIMARY KEY, task TEXT, seq BIGINT, repository TEXT, attempt BIGINT, state TEXT, writer TEXT)`,
		`CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO seen (task, seq, repository, attempt, state, writer) VALUES (NEW.id, NEW.seq,
				(SELECT r ->> 'href' FROM jsonb_array_elements(NEW.resources::jsonb) r WHERE r ->> 'href' LIKE '%/repositories/%' LIMIT 1),
				NEW.attempt, NEW.state, current_setting('application_name'));
			RETURN NEW; END $$`,
		`CREATE TRIGGER see AFTER UPDATE OF state, attempt ON task FOR EACH ROW EXECUTE FUNCTION see()`,
	} {
		if _, err := db.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

// seenTask is the recorded state of a task.
type seenTask struct {
	seq, attempt int64
	state        string
	holder       string // the worker that started the attempt
}

// checkSeen checks the recorded changes against the guarantees of the queue: attempts are numbered in order, each is
// ended by the worker that started it, and nothing follows the end; the tasks of a repository run in order, and all
// have completed. It returns the number of tasks and of attempts.
func checkSeen(t *testing.T, db *sql.DB) (completed, attempts int) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `SELECT task, seq, repository, attempt, state, writer FROM seen ORDER BY n`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	tasks, running, last := map[string]*seenTask{}, map[string]string{}, map[string]int64{}
	for rows.Next() {
		var id, repository, state, writer string
		var seq, attempt int64
		if err := rows.Scan(&id, &seq, &repository, &attempt, &state, &writer); err != nil {
			t.Fatal(err)
		}
		k := tasks[id]
		if k == nil {
			k = &seenTask{seq: seq, state: "waiting"}
			tasks[id] = k
		}
		switch state {
		case "running":
			attempts++
			if k.state != "waiting" || attempt != k.attempt+1 {
				t.Errorf("task %d: attempt %d begins while attempt %d is %s", seq, attempt, k.attempt, k.state)
			}
			if other := running[repository]; other != "" && other != id {
				t.Errorf("task %d begins while task %d has %s", seq, tasks[other].seq, repository)
			}
			running[repository], k.holder = id, writer
		case "waiting":
			if k.state != "running" || attempt != k.attempt {
				t.Errorf("task %d: attempt %d goes back from %s", seq, attempt, k.state)
			}
		case "completed":
			completed++
			if k.state != "running" || attempt != k.attempt || writer != k.holder {
				t.Errorf("task %d: %s completes attempt %d, but the task is %s, attempt %d of %s", seq, writer, attempt, k.state, k.attempt, k.holder)
			}
			if seq < last[repository] {
				t.Errorf("task %d completes after task %d of the same repository", seq, last[repository])
			}
			running[repository], last[repository] = "", seq
		default:
			t.Errorf("task %d is %s", seq, state)
		}
		k.attempt, k.state = attempt, state
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for _, k := range tasks {
		if k.state != "completed" {
			t.Errorf("task %d is left %s", k.seq, k.state)
		}
	}
	return completed, attempts
}

// onceSigned checks that each image of a repository has exactly one signature by a key for each tag, and no others.
func onceSigned(t *testing.T, s *server, public signing.PublicKey, name string, images map[string]string) {
	t.Helper()
	have := map[string]int{}
	var seen []string
	for _, digest := range images {
		if slices.Contains(seen, digest) {
			continue
		}
		seen = append(seen, digest)
		for _, one := range s.signatures(t, name, digest) {
			v, err := signing.Verify(one.Content, public, time.Now())
			if err != nil {
				t.Errorf("a signature of %s@%s: %v", name, digest, err)
				continue
			}
			have[string(v.Claim().ManifestDigest)+" "+v.Claim().DockerReference]++
		}
	}
	for tag, digest := range images {
		if n := have[digest+" "+s.host+"/"+name+":"+tag]; n != 1 {
			t.Errorf("%d signatures for %s:%s, want 1", n, name, tag)
		}
	}
	if len(have) != len(images) {
		t.Errorf("signatures for %v, want one for each of %v", have, images)
	}
}

func publicKey(t *testing.T, k *key) signing.PublicKey {
	t.Helper()
	armored, err := os.ReadFile(k.public)
	if err != nil {
		t.Fatal(err)
	}
	public, err := signing.ParsePublicKey(string(armored))
	if err != nil {
		t.Fatal(err)
	}
	return public
}

// again calls try until it succeeds, because stores that are down come back. It may be called by any goroutine.
func again(t *testing.T, description string, try func() error) {
	t.Helper()
	var err error
	if !eventually.Within(time.Minute, func() bool { err = try(); return err == nil }) {
		t.Errorf("%s: %v", description, err)
	}
}

// trySign starts a sign task.
func (a api) trySign(t *testing.T, repository, service string) (string, error) {
	body, err := json.Marshal(object{"manifest_signing_service": service})
	if err != nil {
		return "", err
	}
	status, _, answer, err := a.try(t, http.MethodPost, repository+"sign/", http.Header{"Content-Type": {"application/json"}}, body)
	if err != nil {
		return "", err
	}
	var accepted struct{ Task string }
	if status != http.StatusAccepted || json.Unmarshal(answer, &accepted) != nil {
		return "", fmt.Errorf("%d %s", status, answer)
	}
	return accepted.Task, nil
}

// disaster is a failure that hits a cluster while it works.
type disaster struct {
	name   string
	strike func()
}

// disasters are the failures of TestNothingIsLost. Those of workers hit a worker with a running task.
func (c *cluster) disasters(t *testing.T, own pgtest.Own, db *sql.DB) []disaster {
	return []disaster{
		{"a worker is killed", func() {
			n, _, _ := c.stopBusy(t, db)
			c.replaceWorker(t, n)
		}},
		{"all workers are killed", func() {
			for range c.workers {
				c.replaceWorker(t, 0)
			}
		}},
		{"a worker stands still until another has its task", func() {
			for taken := false; !taken; {
				n, task, attempt := c.stopBusy(t, db)
				within(t, "another worker takes the task of one that stands still", func() bool {
					var now int64
					var ended bool
					err := db.QueryRowContext(t.Context(), `SELECT attempt, state = 'completed' FROM task WHERE id = $1`, task).Scan(&now, &ended)
					taken = now > attempt
					return err == nil && (taken || ended) // if it had already sent the end of the task, look for another
				})
				signal(t, c.workers[n], syscall.SIGCONT)
			}
		}},
		{"Redis forgets", func() {
			if err := c.redis.cli(t, "flushall"); err != nil {
				t.Error(err)
			}
		}},
		{"Redis is killed", func() {
			c.redis.kill()
			time.Sleep(time.Second)
			c.redis.start(t)
		}},
		{"PostgreSQL is killed", func() {
			own.Kill()
			time.Sleep(time.Second)
			own.Start(t)
		}},
		{"connections to PostgreSQL are cut", func() {
			for range 20 {
				if _, err := db.ExecContext(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'worker%'`); err != nil {
					t.Error(err)
				}
				time.Sleep(20 * time.Millisecond)
			}
		}},
	}
}

// stopBusy stops a worker (SIGSTOP) that has a task according to the database, and returns its index, the task and the
// attempt.
func (c *cluster) stopBusy(t *testing.T, db *sql.DB) (n int, task string, attempt int64) {
	t.Helper()
	eventually.True(t, time.Minute, func() bool {
		for i, w := range c.workers {
			signal(t, w, syscall.SIGSTOP)
			time.Sleep(10 * time.Millisecond) // lets statements that it has sent take effect
			err := db.QueryRowContext(t.Context(), `
				SELECT k.id, k.attempt FROM task k JOIN worker w ON w.id = k.worker_id
				 WHERE k.state = 'running' AND w.name LIKE $1 LIMIT 1`,
				fmt.Sprintf("%d@%%", w.PID())).Scan(&task, &attempt)
			if err == nil {
				n = i
				return true
			}
			signal(t, w, syscall.SIGCONT)
		}
		return false
	}, "a worker has a task")
	return n, task, attempt
}

// TestNothingIsLost runs 1,000 sign tasks (10,000 in the long form) on 100 repositories with three workers, while one
// disaster after another hits workers, Redis and PostgreSQL: each task completes, in order, by one worker, and each
// signature is stored once.
func TestNothingIsLost(t *testing.T) {
	own := pgtest.NewOwn(t)
	k := keyHome(t)
	k.generate(t, "ed25519", "")
	c := startClusterOn(t, own.URL(), 3, "COUNTERSIGN_TASK_LEASE=3s")
	s := c.servers[0]
	c.run(t, "add-signing-service", "cluster", "--openpgp-key", k.secret(t, ""))
	service := text(s.list(t, signingServices).Results[0]["pulp_href"])
	db := watchTasks(t, own.URL())

	const repositories, clients = 100, 8
	rounds := 10
	if soaking() {
		rounds = 100
	}
	images := make([]map[string]string, repositories)
	asked := make([][]string, repositories)
	hrefs := make([]string, repositories)
	name := func(r int) string { return fmt.Sprintf("many/r%d", r) }
	for r := range repositories {
		image, err := s.pushTiny(t, name(r), "n0", name(r)+"n0")
		if err != nil {
			t.Fatal(err)
		}
		images[r] = map[string]string{"n0": image.name}
		hrefs[r] = text(s.repository(t, name(r))["pulp_href"])
	}
	random := moments(t)
	all := c.disasters(t, own, db)
	var next []disaster
	began := time.Now()
	for n := range rounds {
		var asking sync.WaitGroup
		for client := range clients {
			asking.Go(func() {
				for r := client; r < repositories; r += clients {
					tag := fmt.Sprintf("n%d", n)
					again(t, "push", func() error {
						image, err := c.servers[n%2].pushTiny(t, name(r), tag, name(r)+tag)
						if err == nil {
							images[r][tag] = image.name
						}
						return err
					})
					again(t, "sign", func() error {
						task, err := c.servers[(n+1)%2].trySign(t, hrefs[r], service)
						if err == nil {
							asked[r] = append(asked[r], task)
						}
						return err
					})
				}
			})
		}
		if len(next) == 0 && (n == 0 || soaking()) { // each once, or repeatedly in the long form
			next = slices.Clone(all)
			random.Shuffle(len(next), func(i, j int) { next[i], next[j] = next[j], next[i] })
		}
		if len(next) > 0 {
			time.Sleep(time.Duration(50+random.IntN(200)) * time.Millisecond)
			t.Logf("%v: %s", time.Since(began).Round(time.Millisecond), next[0].name)
			next[0].strike()
			next = next[1:]
		}
		asking.Wait()
	}
	total := 0
	for r := range repositories {
		for _, task := range asked[r] {
			total++
			if ended := s.finished(t, task); ended["state"] != "completed" {
				t.Errorf("%s: %v %v", task, ended["state"], ended["error"])
			}
		}
	}
	if total != repositories*rounds {
		t.Errorf("%d tasks, want %d", total, repositories*rounds)
	}
	// A request whose answer was lost may have made a task too.
	within(t, "no task is left", func() bool {
		var left int
		err := db.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM task WHERE finished IS NULL`).Scan(&left)
		return err == nil && left == 0
	})
	completed, attempts := checkSeen(t, db)
	if completed < total {
		t.Errorf("the database saw %d of %d tasks complete", completed, total)
	}
	t.Logf("%d tasks, %d attempts, %v", completed, attempts, time.Since(began).Round(time.Second))
	public := publicKey(t, k)
	for r := range repositories {
		onceSigned(t, s, public, name(r), images[r])
	}
	for _, w := range c.workers {
		if err := w.Stop(); err != nil {
			t.Error(err)
		}
	}
}

// replaceWorker kills a worker and starts a new one.
func (c *cluster) replaceWorker(t *testing.T, n int) {
	t.Helper()
	c.workers[n].Kill()
	c.workers = slices.Delete(c.workers, n, n+1)
	c.addWorker(t)
}

func signal(t *testing.T, p *process.Server, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(p.PID(), s); err != nil && !errors.Is(err, syscall.ESRCH) {
		t.Fatal(err)
	}
}
