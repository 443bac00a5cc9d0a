package integration

import (
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/pgtest"
)

// upstreamPeer is the registry distribution, used as an upstream. It can be stopped and started again on the same
// files.
type upstreamPeer struct {
	*process.Server
	api     // anonymous
	address string
	root    string
	command process.Command
}

// newPeer starts the registry distribution with options of the program baredist.
func newPeer(t *testing.T, options ...string) *upstreamPeer {
	t.Helper()
	program, err := shared.peer()
	if err != nil {
		t.Fatal(err)
	}
	address, err := process.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := &upstreamPeer{address: address, root: filepath.Join(dir, "root"), api: api{base: &url.URL{Scheme: "http", Host: address}}}
	p.command = process.Command{
		Program: program, Arguments: append([]string{"-addr", address, "-root", p.root}, options...), Env: environment(dir), Log: filepath.Join(dir, "log"),
		Ready: []string{"http://" + address + "/v2/"},
	}
	p.start(t)
	t.Cleanup(func() { p.Kill() })
	return p
}

func (p *upstreamPeer) start(t *testing.T) {
	t.Helper()
	running, err := process.Start(t.Context(), p.command)
	if err != nil {
		t.Fatal(err)
	}
	p.Server = running
}

// collect stops the registry, runs its garbage collector, and starts it again.
func (p *upstreamPeer) collect(t *testing.T) {
	t.Helper()
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	must(t, p.command.Env, p.command.Program, "-collect", "-root", p.root)
	p.start(t)
}

// bytes returns the total size of the blobs that the registry stores.
func (p *upstreamPeer) bytes(t *testing.T) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(p.root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "/data") {
			return err
		}
		info, err := entry.Info()
		sum += info.Size()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// shows returns the digest of a tag, or an empty string.
func (p *upstreamPeer) shows(t *testing.T, name, tag string) string {
	t.Helper()
	status, header, _ := p.do(t, http.MethodHead, "/v2/"+name+"/manifests/"+tag, http.Header{"Accept": {ociManifest + ", application/vnd.oci.image.index.v1+json"}}, nil)
	if status != http.StatusOK {
		return ""
	}
	return header.Get("Docker-Content-Digest")
}

// untag removes a tag from the registry.
func (p *upstreamPeer) untag(t *testing.T, name, tag string) {
	t.Helper()
	if status, _, said := p.do(t, http.MethodDelete, "/v2/"+name+"/manifests/"+tag, nil, nil); status != http.StatusAccepted {
		t.Fatalf("delete of the upstream's tag: %d %s", status, said)
	}
}

// inFront starts Countersign with the registry as its upstream.
func (p *upstreamPeer) inFront(t *testing.T, env ...string) *server {
	t.Helper()
	return startServer(t, append([]string{"COUNTERSIGN_UPSTREAM_URL=http://" + p.address}, env...)...)
}

func (s *server) tags(t *testing.T, name string) []string {
	t.Helper()
	var list struct{ Tags []string }
	s.call(t, http.MethodGet, "/v2/"+name+"/tags/list", nil, http.StatusOK, &list)
	return list.Tags
}

// copies checks that a user can, or cannot, copy an image under a policy.
func (c *containers) copies(t *testing.T, policy, reference string, want bool) {
	t.Helper()
	if said, err := c.pull(t, policy, reference); (err == nil) != want {
		t.Errorf("skopeo copy of %s: %v, want it to copy: %t\n%s", reference, err, want, said)
	}
}

// TestAdopt adopts the content of an upstream, follows changes that others make there, and does not take its own pushes
// for such changes.
func TestAdopt(t *testing.T) {
	t.Parallel()
	peer := newPeer(t)
	direct := newContainers(t, &server{host: peer.address})
	direct.push(t, ociLayout(t, image(t, "amd64", "old")), "company/app:1.0")
	direct.push(t, ociLayout(t, index(t, "both", "amd64", "arm64")), "company/app:multi")
	direct.push(t, ociLayout(t, image(t, "amd64", "other")), "other/app:1.0")
	companion := "sha256-" + strings.TrimPrefix(digestOf(t, image(t, "amd64", "old")), "sha256:") + ".sig"
	direct.push(t, ociLayout(t, image(t, "amd64", "companion")), "company/app:"+companion)
	before := peer.bytes(t)

	trusted := keyNamed(t, "trusted")
	s := peer.inFront(t, "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=1s")
	admin := asAdmin(t, s)
	service := s.addService(t, "front", trusted, "")
	if said, err := s.cli(t, nil, "adopt", "company/*"); err != nil || !strings.Contains(said, "company/app  version 1") {
		t.Fatalf("adopt: %v\n%s", err, said)
	}
	if log := s.LogTail(); !regexp.MustCompile(`msg=audit who="command line" kind=command action="adopt repository" object=company/app`).MatchString(log) || strings.Contains(log, `who=""`) {
		t.Errorf("the audit log lacks the user of the adoption:\n%s", log)
	}
	if got := s.list(t, "/pulp/api/v3/repositories/container/container-push/").Count; got != 1 {
		t.Errorf("%d repositories were made, want 1", got)
	}
	if status, _, _ := (api{base: s.base}).do(t, http.MethodGet, "/v2/company/app/manifests/1.0", nil, nil); status != http.StatusUnauthorized {
		t.Errorf("an anonymous pull of adopted content: %d, want 401", status)
	}
	if got := s.tags(t, "company/app"); !slices.Equal(got, []string{"1.0", "multi", companion}) {
		t.Errorf("tags %v", got)
	}
	if after := peer.bytes(t); after != before {
		t.Errorf("the upstream keeps %d bytes, and %d before it was adopted: blobs were copied", after, before)
	}
	version := s.get(t, text(s.repository(t, "company/app")["latest_version_href"]))
	if m, b, g := count(version, "present", "container.manifest"), count(version, "present", "container.blob"), count(version, "present", "container.tag"); m != 5 || g != 3 || b < 6 {
		t.Errorf("%d manifests, %d blobs, %d tags", m, b, g)
	}
	countsMatchLists(t, s.api, version)
	repository := text(s.repository(t, "company/app")["pulp_href"])
	s.signed(t, repository, object{"manifest_signing_service": service})
	policy := admin.signedBy(t, trusted)
	admin.copies(t, policy, "company/app:1.0", true)
	if said, err := admin.pull(t, policy, "company/app:multi", "--override-arch", "arm64"); err != nil {
		t.Errorf("pull of an adopted list: %v\n%s", err, said)
	}

	// Tags that others push become versions: a new tag and a moved one. The old image stays in the old version.
	old := s.digest(t, "company/app", "1.0")
	direct.push(t, ociLayout(t, image(t, "amd64", "newer")), "company/app:2.0")
	direct.push(t, ociLayout(t, image(t, "amd64", "moved")), "company/app:1.0")
	within(t, "what was pushed to the upstream is here", func() bool {
		return slices.Contains(s.tags(t, "company/app"), "2.0") && s.digest(t, "company/app", "1.0") == digestOf(t, image(t, "amd64", "moved"))
	})
	if said, err := admin.pull(t, admin.open, "company/app@"+old); err != nil {
		t.Errorf("pull of the image that was replaced: %v\n%s", err, said)
	}

	// The server's own writes do not become versions.
	was := s.latest(t, text(s.repository(t, "company/app")["pulp_href"]))["number"].(float64)
	for n := range 20 {
		if _, err := s.pushTiny(t, "company/app", "mine", fmt.Sprint("mine ", n%3)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(2500 * time.Millisecond) // at least two more comparisons
	if is := s.latest(t, text(s.repository(t, "company/app")["pulp_href"]))["number"].(float64); is != was+20 {
		t.Errorf("20 pushes made %v versions", is-was)
	}

	// A tag that was deleted at the upstream is reported, and stays here.
	peer.untag(t, "company/app", "2.0")
	within(t, "the difference is told", func() bool {
		found := s.list(t, "/pulp/api/v3/upstream/drift/").Results
		return len(found) == 1 && found[0]["name"] == "2.0" && found[0]["upstream"] == nil && found[0]["repository_name"] == "company/app"
	})
	admin.copies(t, admin.open, "company/app:2.0", true)
	if said, err := s.cli(t, nil, "drift"); err != nil || !strings.Contains(said, "2.0") || !strings.Contains(said, "gone upstream") {
		t.Errorf("drift: %v\n%s", err, said)
	}
	if said, err := s.cli(t, nil, "adopt", "no/such"); err == nil || !strings.Contains(said, "no/such") {
		t.Errorf("adopt of an absent repository: %v\n%s", err, said)
	}
	if said, err := s.cli(t, nil, "adopt", "company/app"); err != nil || said != "company/app  nothing new; remaining differences: 1 (see drift)\n" {
		t.Errorf("a second adopt: %v\n%s", err, said)
	}
}

// TestAdoptOnPull pulls content that was not adopted before.
func TestAdoptOnPull(t *testing.T) {
	t.Parallel()
	peer := newPeer(t)
	direct := newContainers(t, &server{host: peer.address})
	for _, tag := range []string{"1.0", "2.0"} {
		direct.push(t, ociLayout(t, image(t, "amd64", tag)), "company/app:"+tag)
	}
	s := peer.inFront(t, "COUNTERSIGN_UPSTREAM_ADOPT_ON_PULL=true", "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=1s")
	admin := asAdmin(t, s)
	nobody := newContainers(t, s)
	nobody.copies(t, nobody.open, "company/app:1.0", false)
	if got := s.list(t, "/pulp/api/v3/repositories/container/container-push/").Count; got != 0 {
		t.Errorf("an anonymous pull made %d repositories", got)
	}
	admin.copies(t, admin.open, "company/app:1.0", true)
	admin.copies(t, admin.open, "company/none:1.0", false)
	admin.copies(t, admin.open, "company/app:none", false)
	within(t, "the other tags follow", func() bool { return slices.Equal(s.tags(t, "company/app"), []string{"1.0", "2.0"}) })
	direct.push(t, ociLayout(t, image(t, "amd64", "3.0")), "company/app:3.0")
	admin.copies(t, admin.open, "company/app:3.0", true)
	if got := s.list(t, "/pulp/api/v3/repositories/container/container-push/").Count; got != 1 {
		t.Errorf("there are %d repositories, want 1", got)
	}

	public := peer.inFront(t, "COUNTERSIGN_UPSTREAM_ADOPT_ON_PULL=true", "COUNTERSIGN_UPSTREAM_ADOPT_PUBLIC=true")
	anyone := newContainers(t, public)
	anyone.copies(t, anyone.open, "company/app:2.0", true)
}

// TestAdoptSigned adopts into repositories that sign on push: no tag is visible without its signature.
func TestAdoptSigned(t *testing.T) {
	t.Parallel()
	if pgtest.URL(t) != "" {
		t.Skip("only a start on SQLite makes a service")
	}
	peer := newPeer(t)
	direct := newContainers(t, &server{host: peer.address})
	direct.push(t, ociLayout(t, image(t, "amd64", "old")), "company/app:1.0")
	s := peer.inFront(t, "COUNTERSIGN_SIGNING_ON_PUSH=company/*=countersign", "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=1s")
	k := keyHome(t)
	write(t, k.public, text(s.list(t, signingServices).Results[0]["public_key"]), 0o600)
	admin := asAdmin(t, s)
	policy := admin.signedBy(t, k)
	if said, err := s.cli(t, nil, "adopt", "company/app"); err != nil {
		t.Fatalf("adopt: %v\n%s", err, said)
	}
	admin.copies(t, policy, "company/app:1.0", true)
	direct.push(t, ociLayout(t, image(t, "amd64", "new")), "company/app:2.0")
	within(t, "what was pushed to the upstream is here", func() bool { return slices.Contains(s.tags(t, "company/app"), "2.0") })
	admin.copies(t, policy, "company/app:2.0", true)
}

// TestUpstreamCollectsGarbage runs the garbage collector of the upstream, which deletes untagged manifests: manifests
// of older versions are lost and reported, unless hidden tags protect them.
func TestUpstreamCollectsGarbage(t *testing.T) {
	t.Parallel()
	for name, keep := range map[string]bool{"told": false, "kept": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			peer := newPeer(t)
			s := peer.inFront(t, fmt.Sprint("COUNTERSIGN_UPSTREAM_KEEP_MANIFESTS=", keep), "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=1s")
			first, err := s.pushTiny(t, "company/app", "1.0", "first")
			if err != nil {
				t.Fatal(err)
			}
			shows := func(want string) func() bool {
				return func() bool { return peer.shows(t, "company/app", "1.0") == want }
			}
			within(t, "the upstream has the tag", shows(first.name))
			second, err := s.pushTiny(t, "company/app", "1.0", "second")
			if err != nil {
				t.Fatal(err)
			}
			within(t, "the upstream has the tag moved", shows(second.name))
			peer.collect(t)
			s.isServed(t, "company/app", second)
			said, err := s.cli(t, nil, "drift", "--deep")
			if err != nil {
				t.Fatalf("drift: %v\n%s", err, said)
			}
			status, _, _ := s.do(t, http.MethodGet, "/v2/company/app/manifests/"+first.name, nil, nil)
			blob, _, _ := s.do(t, http.MethodGet, "/v2/company/app/blobs/"+first.blobs[1], nil, nil)
			switch {
			case status != http.StatusOK:
				t.Errorf("the manifest of an older version: %d", status)
			case keep && (blob != http.StatusOK || strings.Contains(said, "blob") || strings.Contains(said, "manifest")):
				t.Errorf("its blob: %d; drift:\n%s", blob, said)
			case !keep && (blob == http.StatusOK || strings.Count(said, " blob ") != 2 || strings.Count(said, " manifest ") != 1):
				t.Errorf("its blob: %d; drift:\n%s", blob, said)
			}
			if got := s.tags(t, "company/app"); !slices.Equal(got, []string{"1.0"}) {
				t.Errorf("tags %v: hidden ones are seen", got)
			}
			if hidden := len(tagsOf(t, "http://"+peer.address, "company/app", "")) - 1; keep && hidden != 1 || !keep && hidden != 0 {
				t.Errorf("%d hidden tags upstream", hidden)
			}
		})
	}
}

// TestFollowOff checks that changes by others are reported and not adopted with upstream.follow off.
func TestFollowOff(t *testing.T) {
	t.Parallel()
	peer := newPeer(t)
	s := peer.inFront(t, "COUNTERSIGN_UPSTREAM_FOLLOW=false", "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=1s")
	mine, err := s.pushTiny(t, "company/app", "1.0", "mine")
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the upstream has the tag", func() bool { return peer.shows(t, "company/app", "1.0") == mine.name })
	direct := newContainers(t, &server{host: peer.address})
	direct.push(t, ociLayout(t, image(t, "amd64", "theirs")), "company/app:1.0")
	within(t, "the difference is told", func() bool {
		found := s.list(t, "/pulp/api/v3/upstream/drift/").Results
		return len(found) == 1 && found[0]["here"] == mine.name && found[0]["upstream"] == digestOf(t, image(t, "amd64", "theirs"))
	})
	s.isServed(t, "company/app", mine)
	if got := s.latest(t, text(s.repository(t, "company/app")["pulp_href"]))["number"]; got != 1. {
		t.Errorf("there is a version %v", got)
	}
	status, _, said := api{base: s.base}.do(t, http.MethodGet, "/pulp/api/v3/upstream/drift/", nil, nil)
	if status != http.StatusUnauthorized && status != http.StatusForbidden {
		t.Errorf("anybody reads the differences: %d %s", status, said)
	}
}
