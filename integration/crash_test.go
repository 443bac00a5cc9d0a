package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

// moments returns a source of random times at which to kill a server. Its seed is logged; COUNTERSIGN_TEST_SEED sets
// it.
func moments(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if given, err := strconv.ParseUint(os.Getenv("COUNTERSIGN_TEST_SEED"), 10, 64); err == nil {
		seed = given
	}
	t.Logf("COUNTERSIGN_TEST_SEED=%d repeats these moments", seed)
	return rand.New(rand.NewPCG(seed, seed))
}

// kills returns the number of times that a crash test kills the server.
func kills() int {
	if soaking() {
		return 200
	}
	return 10
}

// TestCrashWhilePushing kills the server at random times while eight clients push. After each restart, every
// acknowledged push is complete, and no version is missing or incomplete.
func TestCrashWhilePushing(t *testing.T) {
	const clients, repository = 8, "crash/app"
	s := startServer(t)
	random := moments(t)
	var all []pushed
	for round := range kills() {
		var pushers sync.WaitGroup
		done := make([][]pushed, clients)
		for client := range clients {
			pushers.Go(func() {
				for n := 0; ; n++ {
					tag := fmt.Sprintf("r%d-c%d-n%d", round, client, n)
					image, err := s.pushTiny(t, repository, tag, tag)
					if err != nil { // the server was killed
						return
					}
					done[client] = append(done[client], image)
				}
			})
		}
		time.Sleep(time.Duration(random.IntN(800)+5) * time.Millisecond)
		s.Kill()
		pushers.Wait()
		s.start(t)
		for _, images := range done {
			all = append(all, images...)
			for _, image := range images {
				s.isServed(t, repository, image)
			}
		}
		if t.Failed() {
			t.Fatalf("after kill %d, with %d acknowledged pushes", round+1, len(all))
		}
	}
	if len(all) == 0 {
		t.Fatal("no push was acknowledged before any kill")
	}
	href := text(s.repository(t, repository)["pulp_href"])
	latest := s.versionsAreComplete(t, href)
	have := count(latest, "present", "container.tag")
	if have < len(all) || have > len(all)+clients*kills() {
		t.Errorf("%d tags after %d acknowledged pushes and %d kills with %d clients", have, len(all), kills(), clients)
	}
	if latest["number"] != float64(have) {
		t.Errorf("%v versions for %d pushed tags", latest["number"], have)
	}
	for _, image := range all {
		s.isServed(t, repository, image)
	}
	t.Logf("%d acknowledged pushes, %d kills, %d tags", len(all), kills(), have)
}

// TestCrashWhileSigning kills the server at random times during a sign task. After the restart the task runs again and
// completes with one version, which has exactly one signature for each tag.
func TestCrashWhileSigning(t *testing.T) {
	trusted := keyNamed(t, "trusted")
	s := startServer(t)
	service := s.addService(t, "crash", trusted, "")
	random := moments(t)
	unfinished := 0 // tasks that had not ended when the server started again
	for round := range kills() {
		name := fmt.Sprintf("crash/signed-%d", round)
		const tags = 6
		images := map[string]string{} // tag to digest; the first two tags have the same manifest
		for n := range tags {
			tag := fmt.Sprintf("n%d", n)
			image, err := s.pushTiny(t, name, tag, fmt.Sprintf("%s %d", name, max(n, 1)))
			if err != nil {
				t.Fatal(err)
			}
			images[tag] = image.name
		}
		repository := text(s.repository(t, name)["pulp_href"])
		task := s.sign(t, repository, object{"manifest_signing_service": service})
		time.Sleep(time.Duration(random.IntN(350)) * time.Millisecond)
		s.Kill()
		s.start(t)
		if state := s.get(t, task)["state"]; state == "waiting" || state == "running" {
			unfinished++
		}
		ended := s.finished(t, task)
		made, _ := ended["created_resources"].([]any)
		if ended["state"] != "completed" || len(made) != 1 || made[0] != fmt.Sprintf("%sversions/%d/", repository, tags+1) {
			t.Fatalf("after kill %d: %v", round+1, ended)
		}
		latest := s.versionsAreComplete(t, repository)
		if count(latest, "added", "container.signature") != tags || count(latest, "present", "container.signature") != tags {
			t.Errorf("after kill %d: %v", round+1, latest)
		}
		checkSignedOnce(t, s, trusted, name, images)
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d kills, %d of them before the task had ended", kills(), unfinished)
}

// checkSignedOnce checks that the manifest of each tag has exactly one signature by the key.
func checkSignedOnce(t *testing.T, s *server, k *key, name string, images map[string]string) {
	t.Helper()
	type made struct{ digest, reference string }
	have := map[made]int{}
	seen := map[string]bool{}
	for _, digest := range images {
		if seen[digest] {
			continue
		}
		seen[digest] = true
		for _, one := range s.signatures(t, name, digest) {
			says := k.claimOf(t, one.Content).Critical
			have[made{says.Image.Digest, says.Identity.Reference}]++
		}
	}
	for tag, digest := range images {
		if n := have[made{digest, s.host + "/" + name + ":" + tag}]; n != 1 {
			t.Errorf("%d signatures for %s:%s, want 1", n, name, tag)
		}
	}
	if len(have) != len(images) {
		t.Errorf("signatures for %v, want one for each of %v", have, images)
	}
}
