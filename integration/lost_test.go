package integration

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/signing"
)

// watchTasks has the database note every change of a task's state, from outside the product.
func watchTasks(t *testing.T, url string) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	for _, text := range []string{
		`CREATE TABLE seen (n BIGSERIAL PRIMARY KEY, task TEXT, seq BIGINT, repository TEXT, attempt BIGINT, state TEXT, worker TEXT)`,
		`CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO seen (task, seq, repository, attempt, state, worker) VALUES (NEW.id, NEW.seq,
				(SELECT r ->> 'href' FROM jsonb_array_elements(NEW.resources::jsonb) r WHERE r ->> 'href' LIKE '%/repositories/%' LIMIT 1), NEW.attempt, NEW.state, NEW.worker_id);
			RETURN NEW; END $$`,
		`CREATE TRIGGER see AFTER UPDATE OF state, attempt ON task FOR EACH ROW EXECUTE FUNCTION see()`,
	} {
		if _, err := db.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

// seenTask is what the database has seen of a task so far.
type seenTask struct {
	seq, attempt  int64
	state, worker string
}

// checkSeen sees that what the database noted is what the queue promises: each attempt is the next one, ends as the worker's that began it, and
// nothing comes after the end; the tasks of a repository follow each other in order. It returns how many completed, and how many attempts there were.
func checkSeen(t *testing.T, db *sql.DB) (completed, attempts int) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `SELECT task, seq, repository, attempt, state, COALESCE(worker, '') FROM seen ORDER BY n`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	tasks, holder, last := map[string]*seenTask{}, map[string]string{}, map[string]int64{}
	for rows.Next() {
		var id, repository, state, worker string
		var seq, attempt int64
		if err := rows.Scan(&id, &seq, &repository, &attempt, &state, &worker); err != nil {
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
			if other := holder[repository]; other != "" && other != id {
				t.Errorf("task %d begins while task %d has %s", seq, tasks[other].seq, repository)
			}
			holder[repository] = id
		case "waiting":
			if k.state != "running" {
				t.Errorf("task %d goes back from %s", seq, k.state)
			}
		case "completed":
			completed++
			if k.state != "running" || attempt != k.attempt || worker != k.worker {
				t.Errorf("task %d: attempt %d of %s completes what is %s, attempt %d of %s", seq, attempt, worker, k.state, k.attempt, k.worker)
			}
			if seq < last[repository] {
				t.Errorf("task %d completes after task %d of the same repository", seq, last[repository])
			}
			holder[repository], last[repository] = "", seq
		default:
			t.Errorf("task %d is %s", seq, state)
		}
		k.attempt, k.state, k.worker = attempt, state, worker
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return completed, attempts
}

// onceSigned sees that each image of a repository has one signature by a key for each tag, and no other.
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

// again tries until it works; what is down comes back.
func again(t *testing.T, what string, try func() error) {
	for began := time.Now(); ; {
		err := try()
		if err == nil {
			return
		}
		if time.Since(began) > time.Minute {
			t.Errorf("%s: %v", what, err)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// trySign asks for a sign task.
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

// TestNothingIsLost has 1,000 tasks sign 100 repositories on three workers, while workers are killed and stopped past their leases, and Redis and PostgreSQL are
// killed and come back without what they need not keep: each task completes, in order, and each signature is stored once.
func TestNothingIsLost(t *testing.T) {
	own := pgtest.NewOwn(t)
	k := keyHome(t)
	k.generate(t, "ed25519", "")
	c := startClusterOn(t, own.URL(), 3, "COUNTERSIGN_TASK_LEASE=3s")
	s := c.servers[0]
	c.run(t, "add-signing-service", "cluster", "--openpgp-key", k.secret(t, ""))
	service := text(s.list(t, signingServices).Results[0]["pulp_href"])
	db := watchTasks(t, own.URL())

	const repositories, rounds, clients = 100, 10, 8
	images := make([]map[string]string, repositories)
	started := make([][]string, repositories)
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
	var asking sync.WaitGroup
	for client := range clients {
		asking.Go(func() {
			for n := range rounds {
				for r := client; r < repositories; r += clients {
					again(t, "push", func() error {
						tag := fmt.Sprintf("n%d", n)
						image, err := c.servers[n%2].pushTiny(t, name(r), tag, name(r)+tag)
						if err == nil {
							images[r][tag] = image.name
						}
						return err
					})
					again(t, "sign", func() error {
						task, err := c.servers[(n+1)%2].trySign(t, hrefs[r], service)
						if err == nil {
							started[r] = append(started[r], task)
						}
						return err
					})
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	faults := []func(){
		func() {
			if err := c.redis.cli(t, "flushall"); err != nil {
				t.Error(err)
			}
		},
		func() { c.replaceWorker(t, random.IntN(len(c.workers))) },
		func() {
			c.redis.kill()
			time.Sleep(time.Second)
			c.redis.start(t)
		},
		func() {
			frozen := c.workers[random.IntN(len(c.workers))]
			signal(t, frozen, syscall.SIGSTOP)
			time.Sleep(5 * time.Second) // its lease is over, and others have its tasks
			signal(t, frozen, syscall.SIGCONT)
		},
		func() {
			own.Kill()
			time.Sleep(time.Second)
			own.Start(t)
		},
		func() { c.replaceWorker(t, random.IntN(len(c.workers))) },
	}
	for _, fault := range faults {
		time.Sleep(time.Duration(500+random.IntN(1000)) * time.Millisecond)
		fault()
	}
	asking.Wait()
	total := 0
	for r := range repositories {
		for _, task := range started[r] {
			total++
			if ended := s.finished(t, task); ended["state"] != "completed" {
				t.Errorf("%s: %v %v", task, ended["state"], ended["error"])
			}
		}
	}
	if total < repositories*rounds {
		t.Errorf("%d tasks, want %d", total, repositories*rounds)
	}
	completed, attempts := checkSeen(t, db)
	if completed < total {
		t.Errorf("the database saw %d of %d tasks complete", completed, total)
	}
	public := publicKey(t, k)
	for r := range repositories {
		onceSigned(t, s, public, name(r), images[r])
	}
	t.Logf("%d tasks, %d attempts", completed, attempts)
	for _, w := range c.workers {
		if err := w.Stop(); err != nil && !w.Ended() {
			t.Error(err)
		}
	}
}

// replaceWorker kills a worker and starts another in its place.
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
