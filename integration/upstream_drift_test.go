package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// tiny pushes an image, which must be accepted.
func (s *server) tiny(t *testing.T, name, tag, content string) pushed {
	t.Helper()
	image, err := s.pushTiny(t, name, tag, content)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// TestUpstreamNames adds content to repositories in other ways than by a push to their own name: the upstream has all
// of it under the repository's name.
func TestUpstreamNames(t *testing.T) {
	t.Parallel()
	peer := newPeer(t)
	s := peer.inFront(t, "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=1s", "COUNTERSIGN_UPSTREAM_KEEP_MANIFESTS=true")
	direct := newContainers(t, &server{host: peer.address})
	whole := func(t *testing.T, name, tag, want string) {
		t.Helper()
		within(t, "the upstream shows "+name+":"+tag, func() bool { return peer.shows(t, name, tag) == want })
		if said, err := direct.pull(t, direct.open, name+":"+tag, "--override-arch", "arm64"); err != nil {
			t.Errorf("%s:%s cannot be had from the upstream: %v\n%s", name, tag, err, said)
		}
	}
	image := s.tiny(t, "from/app", "a", "one")
	from := text(s.repository(t, "from/app")["pulp_href"])

	t.Run("copied", func(t *testing.T) {
		to := s.make(t, containerRepos, object{"name": "to/app"})
		s.act(t, to+"copy_tags/", object{"source_repository_version": from + "versions/1/", "names": []string{"a"}})
		whole(t, "to/app", "a", image.name)
	})
	t.Run("a list, copied", func(t *testing.T) {
		admin := asAdmin(t, s)
		admin.push(t, ociLayout(t, index(t, "copied", "amd64", "arm64")), "from/multi:all")
		multi := text(s.repository(t, "from/multi")["pulp_href"])
		to := s.make(t, containerRepos, object{"name": "to/multi"})
		s.act(t, to+"copy_tags/", object{"source_repository_version": text(s.get(t, multi)["latest_version_href"]), "names": []string{"all"}})
		whole(t, "to/multi", "all", s.digest(t, "from/multi", "all"))
	})
	t.Run("pushed to another path", func(t *testing.T) {
		repo := s.make(t, containerRepos, object{"name": "plain"})
		s.distribute(t, "some/path", object{"repository": repo})
		pushed := s.tiny(t, "some/path", "v1", "two")
		whole(t, "plain", "v1", pushed.name)
		s.isServed(t, "some/path", pushed)
	})
	t.Run("a name that no registry takes", func(t *testing.T) {
		repo := s.make(t, containerRepos, object{"name": "All of Ours"})
		s.distribute(t, "all/ours", object{"repository": repo})
		pushed := s.tiny(t, "all/ours", "v1", "three")
		id := strings.Split(strings.Trim(repo, "/"), "/")
		whole(t, "countersign/"+id[len(id)-1], "v1", pushed.name)
		s.isServed(t, "all/ours", pushed)
	})
	t.Run("renamed", func(t *testing.T) {
		repo := s.make(t, containerRepos, object{"name": "before/app"})
		s.distribute(t, "app", object{"repository": repo})
		older := s.tiny(t, "app", "v1", "four")
		newer := s.tiny(t, "app", "v1", "five")
		whole(t, "before/app", "v1", newer.name)
		s.finished(t, s.startTask(t, http.MethodPatch, repo, object{"name": "after/app"}))
		whole(t, "after/app", "v1", newer.name)
		whole(t, "after/app", "countersign-keep."+strings.Replace(older.name, ":", "-", 1), older.name)
		s.isServed(t, "app", newer)
		whole(t, "after/app", "v2", s.tiny(t, "app", "v2", "six").name)
	})
	if said, err := s.cli(t, nil, "drift", "--deep"); err != nil || !strings.Contains(said, "no differences") {
		t.Errorf("drift: %v\n%s", err, said)
	}
}

// TestUpstreamForgetsOneName deletes a blob at the upstream under the name of its first push. It is still served under
// another name, and a push restores it under the first.
func TestUpstreamForgetsOneName(t *testing.T) {
	t.Parallel()
	peer := newPeer(t)
	s := peer.inFront(t, "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=0")
	image := s.tiny(t, "first/app", "v1", "one")
	s.tiny(t, "second/app", "v1", "one")
	path := func(name string) string { return "/v2/" + name + "/blobs/" + image.blobs[1] }
	if status, _, said := peer.do(t, http.MethodDelete, path("first/app"), nil, nil); status != http.StatusAccepted {
		t.Fatalf("delete: %d %s", status, said)
	}
	s.isServed(t, "second/app", image)
	s.tiny(t, "first/app", "v1", "one")
	s.isServed(t, "first/app", image)
	s.isServed(t, "second/app", image)
	if status, _, _ := peer.do(t, http.MethodGet, path("first/app"), nil, nil); status != http.StatusOK {
		t.Errorf("the upstream did not get the blob again: %d", status)
	}
}

// TestUpstreamRefusesOneTag lets the upstream refuse requests for one tag and one repository. They are reported, and
// all others are adopted and compared.
func TestUpstreamRefusesOneTag(t *testing.T) {
	t.Parallel()
	for _, code := range []int{http.StatusForbidden, http.StatusPreconditionFailed, http.StatusInternalServerError} {
		t.Run(http.StatusText(code), func(t *testing.T) {
			t.Parallel()
			peer := newPeer(t)
			before := peer.inFront(t)
			for _, name := range []string{"company/app", "company/denied", "company/last"} {
				for _, tag := range []string{"bad", "good"} {
					before.tiny(t, name, tag, tag)
					within(t, "the upstream has it", func() bool { return peer.shows(t, name, tag) != "" })
				}
			}
			proxy := newFaultProxy(t, peer)
			proxy.set(func(r *http.Request) http.HandlerFunc {
				if strings.HasSuffix(r.URL.Path, "/company/app/manifests/bad") || strings.HasSuffix(r.URL.Path, "/company/denied/tags/list") {
					return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
				}
				return nil
			})
			s := proxy.inFront(t, "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=1s")
			said, err := s.cli(t, nil, "adopt", "company/*")
			if err == nil || !regexp.MustCompile(`^company/app +version 1; remaining differences: 1 \(see drift\)\ncompany/denied +not adopted: The upstream registry .*\ncompany/last +version 1\ncompany/app +skipped tag bad: The upstream does not serve it: .*\n.*: 1 of 3 repositories were not adopted\n$`).MatchString(said) {
				t.Errorf("adopt: %v\n%s", err, said)
			}
			if got := s.tags(t, "company/app"); !slices.Equal(got, []string{"good"}) {
				t.Errorf("of the one with a bad tag there is %v", got)
			}
			if got := s.tags(t, "company/last"); !slices.Equal(got, []string{"bad", "good"}) {
				t.Errorf("of the other one there is %v", got)
			}
			said, err = s.cli(t, nil, "drift")
			if err != nil || !strings.Contains(said, "company/app") || !strings.Contains(said, "bad") || strings.Contains(said, "company/last") {
				t.Errorf("drift: %v\n%s", err, said)
			}
			direct := newContainers(t, &server{host: peer.address})
			direct.push(t, ociLayout(t, image(t, "amd64", "new")), "company/last:new")
			within(t, "the one behind it is still compared", func() bool { return slices.Contains(s.tags(t, "company/last"), "new") })
		})
	}
}

// TestVerbsWaitForTheUpstream runs adopt and drift while the upstream is unavailable: they print the reason with its
// URL, and finish when it is back.
func TestVerbsWaitForTheUpstream(t *testing.T) {
	t.Parallel()
	f := startFronted(t)
	f.caughtUp(t)
	connected := func(a api) any {
		shown, _ := a.get(t, apiRoot+"status/")["upstream_connection"].(map[string]any)
		return shown["connected"]
	}
	if as, nobody := connected(f.api), connected(api{base: f.base}); as != true || nobody != nil {
		t.Errorf("status/ has connected: %v for an administrator and %v for anonymous callers", as, nobody)
	}
	f.proxy.refuse()
	ends := map[string]func() (string, error){}
	for _, verb := range []string{"adopt", "drift"} { // the task of drift waits for that of adopt
		said, err := os.Create(filepath.Join(t.TempDir(), verb))
		if err != nil {
			t.Fatal(err)
		}
		command := exec.CommandContext(t.Context(), f.command.Program, verb, f.name)
		command.Env, command.Stdout, command.Stderr = f.env, said, said
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		read := func() string {
			b, err := os.ReadFile(said.Name())
			if err != nil {
				t.Error(err)
			}
			return string(b)
		}
		within(t, verb+" says that the upstream is away", func() bool {
			return strings.Contains(read(), "the upstream registry at http://"+f.proxy.address+" does not answer: ")
		})
		ends[verb] = func() (string, error) {
			err := command.Wait()
			return read(), errors.Join(err, said.Close())
		}
	}
	f.proxy.heal(t)
	for verb, want := range map[string]string{"adopt": f.name + "  nothing new\n", "drift": "no differences\n"} {
		if said, err := ends[verb](); err != nil || !strings.HasSuffix(said, want) || strings.Count(said, "\n") < 2 || strings.Contains(said, "run it") {
			t.Errorf("%s when the upstream is back: %v\n%s", verb, err, said)
		}
	}
}

// TestAdoptGoesOn stops the upstream in the middle of an adoption: the task's result still lists the content that was
// adopted before.
func TestAdoptGoesOn(t *testing.T) {
	t.Parallel()
	peer := newPeer(t)
	direct := newContainers(t, &server{host: peer.address})
	for _, name := range []string{"company/a", "company/b"} {
		direct.push(t, ociLayout(t, image(t, "amd64", name)), name+":v1")
	}
	proxy := newFaultProxy(t, peer)
	s := proxy.inFront(t, "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=0")
	var away atomic.Bool
	proxy.set(func(r *http.Request) http.HandlerFunc {
		if away.Load() || strings.Contains(r.URL.Path, "/company/b/") {
			away.Store(true)
			return says(http.StatusServiceUnavailable, "")
		}
		return nil
	})
	said := make(chan string, 1)
	go func() {
		text, err := s.cli(t, nil, "adopt", "company/*")
		said <- fmt.Sprintf("%s%v", text, err)
	}()
	within(t, "the task is returned to be retried", func() bool { return strings.Contains(s.LogTail(), "result=postponed") })
	proxy.heal(t)
	if got := <-said; !regexp.MustCompile(`(^|\n)company/a +version 1\ncompany/b +version 1\n<nil>$`).MatchString(got) {
		t.Errorf("adopt: %s", got)
	}
	task := s.list(t, apiRoot+"tasks/?name=countersign.tasks.adopt").Results[0]
	if made, _ := task["created_resources"].([]any); len(made) != 2 {
		t.Errorf("the task has created %v", task["created_resources"])
	}
}

// TestUpstreamLateWriteAfterRestart stops the server while a write of a tag is delayed. The write arrives after another
// server has written a later one.
func TestUpstreamLateWriteAfterRestart(t *testing.T) {
	t.Parallel()
	for title, end := range map[string]func(*testing.T, *fronted){
		"stopped": func(t *testing.T, f *fronted) {
			t.Helper()
			if err := f.Stop(); err != nil {
				t.Fatal(err)
			}
		},
		"killed": func(_ *testing.T, f *fronted) { f.Kill() },
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			f := startFronted(t, "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=1s")
			now, arrived := make(chan struct{}), make(chan struct{})
			late, met := once(isTagPut, f.proxy.late(t, now, arrived))
			f.proxy.set(late)
			f.pushed(t, "moving", "older")
			<-met
			end(t, f)
			f.start(t)
			newest := f.pushed(t, "moving", "newest")
			f.caughtUp(t)
			before := f.state(t)
			close(now)
			<-arrived
			f.staysAt(t, newest, before)
		})
	}
}

// TestDeletedStaysDeleted deletes an image by its digest. The upstream keeps it, but pulls do not adopt it again.
func TestDeletedStaysDeleted(t *testing.T) {
	t.Parallel()
	peer := newPeer(t)
	s := peer.inFront(t, "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=1s", "COUNTERSIGN_UPSTREAM_ADOPT_ON_PULL=true")
	s.tiny(t, "company/app", "stays", "other")
	gone := s.tiny(t, "company/app", "v1", "one")
	within(t, "the upstream has it", func() bool { return peer.shows(t, "company/app", "v1") == gone.name })
	path := "/v2/company/app/manifests/" + gone.name
	if status, _, said := s.do(t, http.MethodDelete, path, nil, nil); status != http.StatusAccepted {
		t.Fatalf("delete: %d %s", status, said)
	}
	within(t, "the upstream has no tag of it", func() bool { return peer.shows(t, "company/app", "v1") == "" })
	if peer.shows(t, "company/app", gone.name) == "" {
		t.Fatal("the upstream no longer has the image, so the test proves nothing")
	}
	for _, reference := range []string{gone.name, "v1"} {
		if status, _, _ := s.do(t, http.MethodGet, "/v2/company/app/manifests/"+reference, nil, nil); status != http.StatusNotFound {
			t.Errorf("GET of %s after the delete: %d", reference, status)
		}
	}
}

// TestKeptThoughNeverWritten pushes to a tag so fast that the upstream never gets the images in between. Hidden tags
// protect these too, and are not deleted.
func TestKeptThoughNeverWritten(t *testing.T) {
	t.Parallel()
	peer := newPeer(t)
	proxy := newFaultProxy(t, peer)
	s := proxy.inFront(t, "COUNTERSIGN_UPSTREAM_KEEP_MANIFESTS=true", "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=1s")
	first := s.tiny(t, "company/app", "v1", "first")
	within(t, "the upstream has the tag", func() bool { return peer.shows(t, "company/app", "v1") == first.name })
	proxy.set(func(r *http.Request) http.HandlerFunc {
		if isTagPut(r) {
			return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
		}
		return nil
	})
	between := s.tiny(t, "company/app", "v1", "between")
	last := s.tiny(t, "company/app", "v1", "last")
	proxy.heal(t)
	within(t, "the upstream has the tag moved", func() bool { return peer.shows(t, "company/app", "v1") == last.name })
	hidden := func(p pushed) string { return "countersign-keep." + strings.Replace(p.name, ":", "-", 1) }
	if _, err := s.pushTiny(t, "company/app", hidden(first), "in its place"); err == nil {
		t.Error("a hidden tag can be pushed")
	}
	for _, p := range []pushed{first, between} {
		if got := peer.shows(t, "company/app", hidden(p)); got != p.name {
			t.Errorf("the hidden tag of %s names %q", p.name, got)
		}
	}
	peer.collect(t)
	for _, p := range []pushed{first, between, last} {
		for _, path := range []string{"manifests/" + p.name, "blobs/" + p.blobs[0], "blobs/" + p.blobs[1]} {
			if status, _, said := s.do(t, http.MethodGet, "/v2/company/app/"+path, nil, nil); status != http.StatusOK {
				t.Errorf("GET %s: %d %s", path, status, said)
			}
		}
	}
}

// TestUpstreamSaysNoToABlob lets the upstream refuse blobs: the answer has the reason, and a Retry-After only if a
// retry may succeed.
func TestUpstreamSaysNoToABlob(t *testing.T) {
	t.Parallel()
	peer := newPeer(t)
	proxy := newFaultProxy(t, peer)
	s := proxy.inFront(t, "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=0")
	for code, want := range map[int]string{
		http.StatusNotFound: "404 BLOB_UPLOAD_UNKNOWN", http.StatusForbidden: "409 DENIED", http.StatusRequestEntityTooLarge: "413 SIZE_INVALID",
		http.StatusBadRequest: "400 INVALID_REQUEST", http.StatusInternalServerError: "503 UNAVAILABLE",
	} {
		proxy.set(func(r *http.Request) http.HandlerFunc {
			if isBlobCommit(r) {
				return func(w http.ResponseWriter, _ *http.Request) {
					w.WriteHeader(code)
					_, _ = w.Write([]byte(`{"errors":[{"code":"QUOTA","message":"full"}]}`))
				}
			}
			return nil
		})
		blob := fmt.Appendf(nil, "refused with %d", code)
		status, header, said := s.do(t, http.MethodPost, "/v2/company/app/blobs/uploads/?digest="+describe("", blob).Digest, http.Header{"Content-Type": {"application/octet-stream"}}, blob)
		var oci struct{ Errors []struct{ Code string } }
		if err := json.Unmarshal(said, &oci); err != nil || len(oci.Errors) != 1 {
			t.Fatalf("the upstream's %d is answered %d %s", code, status, said)
		}
		if got := fmt.Sprintf("%d %s", status, oci.Errors[0].Code); got != want {
			t.Errorf("the upstream's %d is answered %s, want %s: %s", code, got, want, said)
		}
		if again := header.Get("Retry-After") != ""; again != (status == http.StatusServiceUnavailable) {
			t.Errorf("the upstream's %d is answered %d with Retry-After: %t", code, status, again)
		}
	}
}

// TestAdoptionThatCannotBeSigned adopts into a repository that signs on push while the key is unavailable: no tag
// becomes visible unsigned, the command prints the reason, and the adoption succeeds when the key is back.
func TestAdoptionThatCannotBeSigned(t *testing.T) {
	t.Parallel()
	peer := newPeer(t)
	direct := newContainers(t, &server{host: peer.address})
	for _, name := range []string{"free/app", "prod/app"} {
		direct.push(t, ociLayout(t, image(t, "amd64", name)), name+":v1")
	}
	s, k, secret := signOnPush(t, "COUNTERSIGN_UPSTREAM_URL=http://"+peer.address, "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=0", "COUNTERSIGN_SIGNING_ON_PUSH_TIMEOUT=1s")
	away := filepath.Join(t.TempDir(), "away")
	if err := os.Rename(secret, away); err != nil {
		t.Fatal(err)
	}
	said, err := s.cli(t, nil, "adopt", "*")
	if err == nil || !regexp.MustCompile(`free/app +version 1\nprod/app +not adopted: .*release did not sign`).MatchString(said) {
		t.Errorf("adopt without the key: %v\n%s", err, said)
	}
	if status, _, _ := s.do(t, http.MethodGet, "/v2/prod/app/manifests/v1", nil, nil); status != http.StatusNotFound {
		t.Errorf("GET of an image that cannot be signed: %d", status)
	}
	if said, err := s.cli(t, nil, "drift"); err != nil || !strings.Contains(said, "Somebody else has pushed it") {
		t.Errorf("drift: %v\n%s", err, said)
	}
	if err := os.Rename(away, secret); err != nil {
		t.Fatal(err)
	}
	if said, err := s.cli(t, nil, "adopt", "*"); err != nil {
		t.Errorf("adopt with the key back: %v\n%s", err, said)
	}
	admin := asAdmin(t, s)
	admin.copies(t, admin.signedBy(t, k), "prod/app:v1", true)
}

// TestDriftTellsWhatWaits lets the upstream refuse to move a tag, like registries with immutable tags: the report lists
// the tag until it is written.
func TestDriftTellsWhatWaits(t *testing.T) {
	t.Parallel()
	f := startFronted(t, "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=1s")
	f.proxy.set(func(r *http.Request) http.HandlerFunc {
		if isTagPut(r) {
			return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusPreconditionFailed) }
		}
		return nil
	})
	f.pushed(t, "v1", "two")
	within(t, "the report names the tag", func() bool {
		found := f.list(t, apiRoot+"upstream/drift/").Results
		return len(found) == 1 && found[0]["name"] == "v1" && strings.HasPrefix(text(found[0]["note"]), "It waits to be written to the upstream")
	})
	f.proxy.heal(t)
	f.caughtUp(t)
	within(t, "the report is empty again", func() bool { return len(f.list(t, apiRoot+"upstream/drift/").Results) == 0 })
}
