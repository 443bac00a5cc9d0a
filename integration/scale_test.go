package integration

import (
	"fmt"
	"sync"
	"testing"
)

// load returns the number of concurrent clients and of the tags that each pushes to one repository.
func load() (clients, tags int) {
	if soaking() {
		return 50, 200
	}
	return 50, 20
}

// pushMany pushes the tags of all clients concurrently and returns the acknowledged images. Any error fails the test.
func pushMany(t *testing.T, s *server, repository string) []pushed {
	t.Helper()
	clients, tags := load()
	var pushers sync.WaitGroup
	done := make([][]pushed, clients)
	for client := range clients {
		pushers.Go(func() {
			for n := range tags {
				tag := fmt.Sprintf("c%d-n%d", client, n)
				image, err := s.pushTiny(t, repository, tag, "text of "+tag)
				if err != nil {
					t.Errorf("push of %s: %v", tag, err)
					return
				}
				done[client] = append(done[client], image)
			}
		})
	}
	pushers.Wait()
	var all []pushed
	for _, images := range done {
		all = append(all, images...)
	}
	return all
}

// TestScalePushes runs 50 concurrent clients that push 20 tags each to one repository: all tags and one version for
// each, without errors.
func TestScalePushes(t *testing.T) {
	s := startServer(t)
	clients, tags := load()
	want := clients * tags
	images := pushMany(t, s, "busy/app")
	if t.Failed() {
		return
	}
	repository := text(s.repository(t, "busy/app")["pulp_href"])
	latest := s.versionsAreComplete(t, repository)
	if latest["number"] != float64(want) || count(latest, "present", "container.tag") != want || count(latest, "present", "container.manifest") != want {
		t.Errorf("after %d pushes: %v", want, latest)
	}
	if listed := len(tagsOf(t, s.base.String(), "busy/app", "?n=20000")); listed != want {
		t.Errorf("tags/list has %d tags, want %d", listed, want)
	}
	for i := range 20 {
		s.isServed(t, "busy/app", images[i*len(images)/20])
	}
}

// TestScalePushesWhileSigning does the same while one sign task after another runs on that repository: pushes do not
// wait for them, the tasks complete, and each signature is added once.
func TestScalePushesWhileSigning(t *testing.T) {
	trusted := keyNamed(t, "trusted")
	s := startServer(t)
	service := s.addService(t, "busy", trusted, "")
	const some = 8 // number of tags that one task signs
	var tasks []string
	sign := func() {
		var names []string
		for n := range some {
			tag := fmt.Sprintf("signed-%d-%d", len(tasks), n)
			if _, err := s.pushTiny(t, "busy/app", tag, tag); err != nil {
				t.Fatal(err)
			}
			names = append(names, tag)
		}
		repository := text(s.repository(t, "busy/app")["pulp_href"])
		tasks = append(tasks, s.sign(t, repository, object{"manifest_signing_service": service, "tags_list": names}))
	}

	sign()
	pushing := make(chan []pushed)
	go func() { pushing <- pushMany(t, s, "busy/app") }()
	var images []pushed
	for images == nil {
		if state := s.get(t, tasks[len(tasks)-1])["state"]; state != "waiting" && state != "running" {
			sign()
		}
		select {
		case images = <-pushing:
		default:
		}
	}
	if t.Failed() {
		return
	}
	for _, task := range tasks {
		if ended := s.finished(t, task); ended["state"] != "completed" || len(ended["created_resources"].([]any)) != 1 {
			t.Errorf("sign task: %v", ended)
		}
	}
	latest := s.versionsAreComplete(t, text(s.repository(t, "busy/app")["pulp_href"]))
	if want := float64(len(images) + (some+1)*len(tasks)); latest["number"] != want {
		t.Errorf("the latest version is %v, want %v", latest["number"], want)
	}
	if have, want := count(latest, "present", "container.signature"), some*len(tasks); have != want {
		t.Errorf("%d signatures, want %d", have, want)
	}
	t.Logf("%d pushes beside %d sign tasks", len(images), len(tasks))
}
