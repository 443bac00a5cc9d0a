package integration

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

const (
	containerRepos = apiRoot + "repositories/container/container/"
	remotes        = apiRoot + "remotes/container/container/"
	distributions  = apiRoot + "distributions/container/container/"
)

// allowLoopback permits remotes on this machine, where the tests' registries run.
const allowLoopback = "COUNTERSIGN_MIRROR_ALLOW_PRIVATE_ADDRESSES=127.0.0.0/8,::1"

// make creates an object and returns its href.
func (a api) make(t *testing.T, collection string, fields object) string {
	t.Helper()
	var made object
	a.call(t, http.MethodPost, collection, fields, http.StatusCreated, &made)
	return text(made["pulp_href"])
}

// startTask starts a task and returns its href.
func (a api) startTask(t *testing.T, method, path string, fields object) string {
	t.Helper()
	var out struct {
		Task string `json:"task"`
	}
	a.call(t, method, path, fields, http.StatusAccepted, &out)
	return out.Task
}

// act starts a task, which must complete, and returns it.
func (a api) act(t *testing.T, path string, fields object) object {
	t.Helper()
	ended := a.finished(t, a.startTask(t, http.MethodPost, path, fields))
	if ended["state"] != "completed" {
		t.Fatalf("%s: %v", path, ended)
	}
	return ended
}

// latest returns a repository's latest version.
func (a api) latest(t *testing.T, repository string) object {
	t.Helper()
	return a.get(t, text(a.get(t, repository)["latest_version_href"]))
}

// distribute creates a distribution and returns its href.
func (a api) distribute(t *testing.T, path string, fields object) string {
	t.Helper()
	fields["name"], fields["base_path"] = path, path
	made, _ := a.act(t, distributions, fields)["created_resources"].([]any)
	if len(made) != 1 {
		t.Fatalf("distribution %s: %v", path, made)
	}
	return text(made[0])
}

// copyTo copies content to another registry with skopeo.
func copyTo(t *testing.T, registry, reference string, content mutate.Appendable) {
	t.Helper()
	need(t, "skopeo")
	host, err := url.Parse(registry)
	if err != nil {
		t.Fatal(err)
	}
	must(t, environment(t.TempDir()), "skopeo", "--insecure-policy", "copy", "--all", "--quiet", "--dest-tls-verify=false", ociLayout(t, content), "docker://"+host.Host+"/"+reference)
}

// TestMirroredSeedStory follows the second part of Pulp's guide: a repository is synced from another registry (9 blobs,
// 5 manifests, 2 tags), signed for a path before a distribution serves it, and pulled under a policy.
func TestMirroredSeedStory(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	mirroredSeedStory(t, startServer(t, allowLoopback, trusted.env()), trusted)
}

// mirroredSeedStory needs a server that has the key and may mirror from this machine.
func mirroredSeedStory(t *testing.T, s *server, trusted *key) {
	t.Helper()
	need(t, "podman", "skopeo")
	source := startPeer(t)
	list := index(t, "busybox", "amd64", "arm64", "s390x")
	layers, err := image(t, "amd64", "second layer").Layers()
	if err != nil {
		t.Fatal(err)
	}
	single, err := mutate.AppendLayers(image(t, "amd64", "musl"), layers...)
	if err != nil {
		t.Fatal(err)
	}
	copyTo(t, source, "library/busybox:latest", list)
	copyTo(t, source, "library/busybox:musl", single)

	service := addSeedService(t, s, trusted)
	remote := s.make(t, remotes, object{"name": "busybox", "url": source, "upstream_name": "library/busybox"})
	repository := s.make(t, containerRepos, object{"name": "busybox", "remote": remote})
	synced := s.act(t, repository+"sync/", object{})
	holds(t, "sync task", synced, object{
		"name": "pulp_container.app.tasks.synchronize.synchronize", "created_resources": []any{repository + "versions/1/"}, "error": nil,
	})
	entry := func(count float64, collection, how string, version int) object {
		return object{"count": count, "href": fmt.Sprintf("%scontent/container/%s/?%s=%sversions/%d/", apiRoot, collection, how, repository, version)}
	}
	content := func(how string, version int) object {
		return object{
			"container.blob":     entry(9, "blobs", how, version),
			"container.manifest": entry(5, "manifests", how, version),
			"container.tag":      entry(2, "tags", how, version),
		}
	}
	one := s.get(t, repository+"versions/1/")
	holds(t, "version 1", one, object{
		"base_version": nil, "number": 1.0, "pulp_created": anyTime, "repository": repository,
		"content_summary": object{"added": content("repository_version_added", 1), "present": content("repository_version", 1), "removed": object{}},
	})
	countsMatchLists(t, s.api, one)
	if again := s.act(t, repository+"sync/", object{}); len(again["created_resources"].([]any)) != 0 || again["result"] != nil {
		t.Errorf("an unchanged sync made %v", again)
	}

	// Two distributions: one created before the signatures and one after them, with the path in the signatures and with
	// another.
	s.distribute(t, "early/busybox", object{"repository": repository})
	status, _, said := s.do(t, http.MethodPost, repository+"sign/", http.Header{"Content-Type": {"application/json"}},
		[]byte(`{"manifest_signing_service":"`+service+`","future_base_path":"library/busybox"}`))
	if status != http.StatusBadRequest { // its distribution has another path (compatibility.md#future-base-path)
		t.Errorf("signing for a path that is not the distribution's: %d %s", status, said)
	}
	s.signed(t, repository, object{"manifest_signing_service": service}) // for early/busybox
	s.finished(t, s.startTask(t, http.MethodDelete, text(s.list(t, distributions+"?name=early/busybox").Results[0]["pulp_href"]), nil))
	later := s.signed(t, repository, object{"manifest_signing_service": service, "future_base_path": "library/busybox"})
	if count(later, "added", "container.signature") != 4 || count(later, "present", "container.signature") != 8 {
		t.Errorf("signing added %v", later["content_summary"])
	}
	again := s.act(t, repository+"sign/", object{"manifest_signing_service": service, "future_base_path": "library/busybox", "tags_list": []string{"musl"}})
	if len(again["created_resources"].([]any)) != 0 { // compatibility.md#signing-again
		t.Errorf("signing one tag again made %v", again["created_resources"])
	}
	s.distribute(t, "library/busybox", object{"repository": repository})
	s.distribute(t, "early/busybox", object{"repository": repository})
	if found := s.signatures(t, "library/busybox", s.digest(t, "library/busybox", "latest")); len(found) != 0 {
		t.Errorf("the list itself has %d signatures", len(found))
	}
	admin := asAdmin(t, s)
	policy := admin.signedBy(t, trusted)
	for _, path := range []string{"library/busybox", "early/busybox"} {
		for _, architecture := range []string{"amd64", "arm64", "s390x"} {
			if said, err := admin.podmanPull(t, policy, path+":latest", "--arch", architecture); err != nil {
				t.Errorf("podman pull of %s for %s: %v\n%s", path, architecture, err, said)
			}
		}
		if said, err := newContainers(t, s).pull(t, policy, path+":musl"); err != nil {
			t.Errorf("skopeo pull of %s: %v\n%s", path, err, said)
		}
	}
	// A distribution of version 1 serves it without signatures, so pulls are refused.
	s.distribute(t, "pinned/busybox", object{"repository_version": repository + "versions/1/"})
	if said, err := newContainers(t, s).pull(t, policy, "pinned/busybox:musl"); err == nil {
		t.Errorf("an unsigned version is pulled:\n%s", said)
	}
	if said, err := newContainers(t, s).pull(t, admin.open, "pinned/busybox:musl"); err != nil {
		t.Errorf("pull of a pinned version: %v\n%s", err, said)
	}
	// Pushes to a mirror are refused.
	if said, err := output(t, admin.env(), "skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", ociLayout(t, single), "docker://"+s.host+"/library/busybox:mine"); err == nil {
		t.Errorf("a push into a mirror is accepted:\n%s", said)
	}
}

// TestMirrorOfSignedRepository syncs from another Countersign server: signatures are synced from its signature
// endpoint, and cosign's companion tags by the filters.
func TestMirrorOfSignedRepository(t *testing.T) {
	t.Parallel()
	need(t, "podman", "skopeo")
	trusted, stranger := keyNamed(t, "trusted"), keyNamed(t, "stranger")
	from := startServer(t, stranger.env())
	s := startServer(t, allowLoopback, trusted.env())
	pusher := asAdmin(t, from)
	content := image(t, "amd64", "signed upstream")
	pusher.push(t, ociLayout(t, content), "up/app:v1")
	hex := strings.TrimPrefix(digestOf(t, content), "sha256:")
	pusher.push(t, ociLayout(t, image(t, "amd64", "companion")), "up/app:sha256-"+hex+".sig")
	pusher.push(t, ociLayout(t, image(t, "amd64", "other")), "up/app:other")
	from.signed(t, text(from.repository(t, "up/app")["pulp_href"]), object{
		"manifest_signing_service": from.addService(t, "upstream", stranger, ""), "tags_list": []string{"v1"},
	})
	remote := s.make(t, remotes, object{
		"name": "up", "url": "http://" + from.host, "upstream_name": "up/app", "include_tags": []string{"v*"}, "policy": "on_demand",
		"username": "admin", "password": adminPassword,
	})
	repository := s.make(t, containerRepos, object{"name": "mine", "remote": remote})
	s.act(t, repository+"sync/", object{"mirror": true})
	s.distribute(t, "mine/app", object{"repository": repository, "private": true})
	one := s.latest(t, repository)
	if count(one, "present", "container.tag") != 2 || count(one, "present", "container.signature") != 1 || count(one, "present", "container.manifest") != 2 {
		t.Errorf("synced %v", one["content_summary"])
	}
	s.signed(t, repository, object{"manifest_signing_service": s.addService(t, "own", trusted, "")})
	if have := s.signatures(t, "mine/app", digestOf(t, content)); len(have) != 2 {
		t.Errorf("%d signatures, want theirs and ours", len(have))
	}
	s.act(t, repository+"sync/", object{"mirror": true, "signed_only": true})
	if have := s.signatures(t, "mine/app", digestOf(t, content)); len(have) != 2 {
		t.Errorf("%d signatures after another sync, want theirs and ours", len(have))
	}
	admin := asAdmin(t, s)
	policy := admin.signedBy(t, trusted)
	if said, err := admin.pull(t, policy, "mine/app:v1"); err != nil { // this pull downloads its layer
		t.Errorf("pull: %v\n%s", err, said)
	}
	if err := from.Stop(); err != nil {
		t.Fatal(err)
	}
	if said, err := admin.pull(t, policy, "mine/app:v1"); err != nil { // which is stored now
		t.Errorf("pull after the remote stopped: %v\n%s", err, said)
	}
	if said, err := newContainers(t, s).pull(t, policy, "mine/app:v1"); err == nil {
		t.Errorf("an anonymous pull from a private distribution succeeds:\n%s", said)
	}
}

// slowSync pushes images to another server and creates a repository that is synced from it with a few requests per
// second.
func slowSync(t *testing.T, s *server, images int) (repository, remote, source string) {
	t.Helper()
	from := startServer(t)
	source = "http://" + from.host
	for n := range images {
		if _, err := from.pushTiny(t, "slow/app", fmt.Sprintf("n%d", n), fmt.Sprintf("slow %d", n)); err != nil {
			t.Fatal(err)
		}
	}
	remote = s.make(t, remotes, object{"name": "slow", "url": source, "upstream_name": "slow/app", "rate_limit": 40, "max_retries": 1})
	return s.make(t, containerRepos, object{"name": "slow", "remote": remote}), remote, source
}

// untilFetching waits until a sync has downloaded content.
func untilFetching(t *testing.T, s *server, task string) {
	t.Helper()
	within(t, "the sync fetches", func() bool {
		reports, _ := s.get(t, task)["progress_reports"].([]any)
		for _, r := range reports {
			if report, _ := r.(object); report["code"] == "sync.downloading.artifacts" && report["done"] != 0.0 {
				return true
			}
		}
		return false
	})
}

// TestFaultsInTheMiddleOfASync cancels a sync, stops its remote, and kills the server: each leaves the latest version
// unchanged, and in the end all content is there, downloaded once.
func TestFaultsInTheMiddleOfASync(t *testing.T) {
	t.Parallel()
	s := startServer(t, allowLoopback)
	const images = 40
	repository, remote, source := slowSync(t, s, images)
	unchanged := func(what string) {
		t.Helper()
		if number := s.latest(t, repository)["number"]; number != 0.0 {
			t.Errorf("%s left version %v", what, number)
		}
	}

	task := s.startTask(t, http.MethodPost, repository+"sync/", object{})
	untilFetching(t, s, task)
	var canceled object
	s.call(t, http.MethodPatch, task, object{"state": "canceled"}, http.StatusOK, &canceled)
	if ended := s.finished(t, task); ended["state"] != "canceled" || ended["error"] != nil {
		t.Errorf("a canceled sync: %v", ended)
	}
	unchanged("a canceled sync")

	// The remote stops.
	s.finished(t, s.startTask(t, http.MethodPatch, remote, object{"url": "http://127.0.0.1:1"}))
	task = s.startTask(t, http.MethodPost, repository+"sync/", object{})
	if ended := s.finished(t, task); ended["state"] != "failed" || !strings.Contains(fmt.Sprint(ended["error"]), "127.0.0.1:1") {
		t.Errorf("a sync without its remote: %v", ended)
	}
	unchanged("a sync without its remote")
	s.finished(t, s.startTask(t, http.MethodPatch, remote, object{"url": source}))

	task = s.startTask(t, http.MethodPost, repository+"sync/", object{})
	untilFetching(t, s, task)
	s.Kill()
	s.start(t)
	ended := s.finished(t, task)
	if ended["state"] != "completed" {
		t.Fatalf("a sync whose server was killed: %v", ended)
	}
	latest := s.latest(t, repository)
	if count(latest, "present", "container.tag") != images || latest["number"] != 1.0 {
		t.Errorf("in the end: %v", latest)
	}
	s.versionsAreComplete(t, repository)
}

// TestRemotesInsideAreRefused syncs from a private address that is not allowed.
func TestRemotesInsideAreRefused(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	asked := 0
	for name, where := range map[string]string{
		"loopback": "http://127.0.0.1:1", "metadata": "http://169.254.169.254", "six": "http://[::1]:1", "decimal": "http://2130706433:1", "name": "http://localhost:1",
		"mapped": "http://[::ffff:10.0.0.1]:1",
	} {
		remote := s.make(t, remotes, object{"name": name, "url": where, "upstream_name": "a/b", "username": "robot", "password": "top-secret-word"})
		repository := s.make(t, containerRepos, object{"name": name, "remote": remote})
		ended := s.finished(t, s.startTask(t, http.MethodPost, repository+"sync/", object{}))
		said := fmt.Sprint(ended["error"])
		if ended["state"] != "failed" || name != "decimal" && !strings.Contains(said, "mirror.allow_private_addresses") || strings.Contains(said, "top-secret-word") {
			t.Errorf("%s: %v %s", name, ended["state"], said)
		}
		asked++
	}
	if strings.Contains(s.LogTail(), "top-secret-word") {
		t.Error("the log has the password")
	}
}

// TestContentManagement copies, tags, restores, removes and deletes versions over REST, and checks the results with a
// client.
func TestContentManagement(t *testing.T) {
	t.Parallel()
	need(t, "skopeo")
	s := startServer(t)
	admin := asAdmin(t, s)
	contents := map[string]v1.Image{}
	for _, tag := range []string{"a", "b", "c"} {
		contents[tag] = image(t, "amd64", "content "+tag)
		admin.push(t, ociLayout(t, contents[tag]), "from/app:"+tag)
	}
	from := text(s.repository(t, "from/app")["pulp_href"])
	to := s.make(t, containerRepos, object{"name": "to", "pulp_labels": object{"env": "test"}})
	s.distribute(t, "to/app", object{"repository": to})
	s.act(t, to+"copy_tags/", object{"source_repository_version": from + "versions/3/", "names": []string{"a", "b"}})
	tags := func(want ...string) {
		t.Helper()
		if have := tagsOf(t, "http://"+s.host, "to/app", ""); fmt.Sprint(have) != fmt.Sprint(want) {
			t.Errorf("tags %v, want %v", have, want)
		}
	}
	tags("a", "b")
	s.act(t, to+"tag/", object{"tag": "stable", "digest": digestOf(t, contents["a"])})
	tags("a", "b", "stable")
	s.act(t, to+"untag/", object{"tag": "a"})
	tags("b", "stable")
	s.act(t, to+"copy_manifests/", object{"source_repository_version": from + "versions/3/", "digests": []string{digestOf(t, contents["c"])}})
	four := s.latest(t, to)
	if four["number"] != 4.0 || count(four, "present", "container.manifest") != 3 || count(four, "present", "container.blob") != 6 {
		t.Errorf("version 4: %v", four)
	}
	stable := s.list(t, apiRoot+"content/container/tags/?name=stable").Results[0]
	s.act(t, to+"remove/", object{"content_units": []string{text(stable["pulp_href"])}})
	tags("b")
	if five := s.latest(t, to); count(five, "present", "container.manifest") != 2 || count(five, "removed", "container.blob") != 2 {
		t.Errorf("version 5: %v", five)
	}
	// Roll back to version 2.
	s.act(t, to+"rollback/", object{"version": to + "versions/2/"})
	tags("a", "b", "stable")
	if said, err := admin.pull(t, admin.open, "to/app:stable"); err != nil {
		t.Errorf("pull after the roll-back: %v\n%s", err, said)
	}
	countsMatchLists(t, s.api, s.latest(t, to))
	s.finished(t, s.startTask(t, http.MethodDelete, to+"versions/3/", nil))
	countsMatchLists(t, s.api, s.get(t, to+"versions/4/"))
	s.finished(t, s.startTask(t, http.MethodPatch, to, object{"retain_repo_versions": 2}))
	if n := s.list(t, to+"versions/").Count; n != 2 {
		t.Errorf("%d versions are kept, want 2", n)
	}
	for _, v := range s.list(t, to+"versions/").Results {
		countsMatchLists(t, s.api, v)
	}
	s.act(t, to+"versions/6/repair/", object{"verify_checksums": true})

	s.act(t, from+"remove_image/", object{"digest": digestOf(t, contents["c"])})
	migrated := s.act(t, from+"migrate/", object{})
	moved := text(migrated["created_resources"].([]any)[0])
	if moved == from || s.get(t, moved)["name"] != "from/app" {
		t.Errorf("migrated to %s", moved)
	}
	if said, err := admin.pull(t, admin.open, "from/app:a"); err != nil {
		t.Errorf("pull after the migration: %v\n%s", err, said)
	}
	if said, err := admin.pull(t, admin.open, "from/app:c"); err == nil {
		t.Errorf("a removed image is pulled:\n%s", said)
	}
	s.finished(t, s.startTask(t, http.MethodDelete, moved, nil))
	if said, err := admin.pull(t, admin.open, "to/app:b"); err != nil { // the blobs were pushed to the other repository
		t.Errorf("pull of a copy after its source was deleted: %v\n%s", err, said)
	}
}
