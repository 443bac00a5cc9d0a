package integration

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestUpstreamSeedStory follows Pulp's guide in front of the registry distribution, with the same code as without it.
// Afterwards that registry is used directly.
func TestUpstreamSeedStory(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	for client, push := range seedPushes {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			p := newPeer(t)
			s := p.inFront(t, trusted.env())
			seedStory(t, s, s, trusted, push)
			p.usedDirectly(t, s, "test/minio", "test/minio")
		})
	}
	t.Run("mirrored", func(t *testing.T) {
		t.Parallel()
		p := newPeer(t)
		s := p.inFront(t, allowLoopback, trusted.env())
		mirroredSeedStory(t, s, trusted)
		p.usedDirectly(t, s, "busybox", "library/busybox")
	})
}

// usedDirectly checks that the upstream has exactly the tags that the server has under a path, with the same digests,
// and that images can be copied from it.
func (p *upstreamPeer) usedDirectly(t *testing.T, s *server, name, path string) {
	t.Helper()
	want := s.tags(t, path)
	if len(want) == 0 {
		t.Fatalf("no tags in %s", path)
	}
	within(t, "the upstream lists the tags", func() bool { return slices.Equal(tagsOf(t, "http://"+p.address, name, ""), want) })
	direct := newContainers(t, &server{host: p.address})
	for _, tag := range want {
		within(t, "the upstream shows "+tag, func() bool { return p.digestOf(t, name, tag) == s.digest(t, path, tag) })
		if said, err := direct.pull(t, direct.open, name+":"+tag, "--override-arch", "amd64"); err != nil {
			t.Errorf("skopeo copy of %s straight from the upstream: %v\n%s", tag, err, said)
		}
		if said, err := direct.podmanPull(t, direct.open, name+":"+tag, "--arch", "amd64"); err != nil {
			t.Errorf("podman pull of %s straight from the upstream: %v\n%s", tag, err, said)
		}
	}
}

// digestOf returns the digest of a tag, or an empty string.
func (p *upstreamPeer) digestOf(t *testing.T, name, tag string) string {
	t.Helper()
	header := map[string][]string{"Accept": {strings.Join([]string{ociManifest, "application/vnd.oci.image.index.v1+json",
		"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json"}, ", ")}}
	_, answered, _ := p.do(t, "HEAD", "/v2/"+name+"/manifests/"+tag, header, nil)
	return answered.Get("Docker-Content-Digest")
}

// TestUpstreamReferrers attaches artifacts, which have no tag, in front of a registry without the referrers API. Hidden
// tags protect them from its garbage collector. Clients find them there after the script in docs/upstream.md has
// written the lists as fallback tags; a copy does not write them, because it skips existing content.
func TestUpstreamReferrers(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	s := p.inFront(t, "COUNTERSIGN_UPSTREAM_KEEP_MANIFESTS=true", "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=0")
	oras := newPinned(t, "oras", s)
	oras.must(t, "login", "--username", "admin", "--password", adminPassword, s.host)
	here, there := s.host+"/company/app", p.address+"/company/app"
	pushed := func(tag string) string {
		t.Helper()
		oras.must(t, "push", here+":"+tag, oras.file(t, "content.txt", tag)+":text/plain")
		d := s.digest(t, "company/app", tag)
		within(t, "the upstream has "+tag, func() bool { return p.shows(t, "company/app", tag) == d })
		return d
	}
	attach := func(to, kind string) string {
		t.Helper()
		return oras.line(t, "attach", "--artifact-type", kind, "--format", "go-template", "--template", "{{.digest}}", here+"@"+to, oras.file(t, "note.txt", kind)+":text/plain")
	}
	app := pushed("1.0")
	review := attach(app, "application/vnd.example.review")
	seal := attach(review, "application/vnd.example.seal")
	pushed("2.0") // hidden tags are written before tags
	p.collect(t)

	type node struct {
		Digest    string `json:"digest"`
		Referrers []node `json:"referrers"`
	}
	found := func() (tree node) {
		t.Helper()
		if answer := oras.must(t, "discover", "--plain-http", "--format", "json", there+":1.0"); json.Unmarshal([]byte(answer), &tree) != nil {
			t.Fatal(answer)
		}
		return tree
	}
	oras.must(t, "copy", "--recursive", "--to-plain-http", here+":1.0", there+":1.0")
	if tree := found(); len(tree.Referrers) != 0 {
		t.Errorf("a copy is enough, or the upstream lists them: %v", tree)
	}
	var bring func(digest string)
	bring = func(digest string) {
		t.Helper()
		_, _, list := s.do(t, http.MethodGet, "/v2/company/app/referrers/"+digest, nil, nil)
		var referrers struct{ Manifests []node }
		if err := json.Unmarshal(list, &referrers); err != nil {
			t.Fatalf("%v: %s", err, list)
		}
		if len(referrers.Manifests) > 0 {
			oras.must(t, "manifest", "push", "--plain-http", "--media-type", "application/vnd.oci.image.index.v1+json",
				there+":"+strings.Replace(digest, ":", "-", 1), oras.file(t, "list.json", string(list)))
		}
		for _, each := range referrers.Manifests {
			bring(each.Digest)
		}
	}
	bring(app)
	tree := found()
	if len(tree.Referrers) != 1 || tree.Referrers[0].Digest != review || len(tree.Referrers[0].Referrers) != 1 || tree.Referrers[0].Referrers[0].Digest != seal {
		t.Errorf("the upstream shows %+v, want %s with %s", tree, review, seal)
	}
	if got := oras.must(t, "pull", "--plain-http", "--output", "pulled", there+"@"+seal); oras.read(t, "pulled/note.txt") != "application/vnd.example.seal" {
		t.Errorf("pulled content: %s", got)
	}
}

// TestTakenAway signs images in front of a registry and writes the signatures to a lookaside. With it, clients with a
// policy pull directly from that registry.
func TestTakenAway(t *testing.T) {
	t.Parallel()
	need(t, "skopeo")
	need(t, "jq")
	need(t, "curl")
	p := newPeer(t)
	s := p.inFront(t)
	pusher := asAdmin(t, s)
	service := s.list(t, signingServices).Results[0]
	key := write(t, filepath.Join(t.TempDir(), "public.asc"), text(service["public_key"]), 0o600)
	pusher.push(t, ociLayout(t, image(t, "amd64", "one")), "company/app:1.0")
	pusher.push(t, ociLayout(t, index(t, "many", "amd64", "arm64")), "company/app:multi")
	pusher.push(t, ociLayout(t, image(t, "amd64", "one")), "company/app:again")
	s.finished(t, s.sign(t, text(s.repository(t, "company/app")["pulp_href"]), object{"manifest_signing_service": service["pulp_href"]}))
	pusher.push(t, ociLayout(t, image(t, "amd64", "late")), "company/app:unsigned")
	within(t, "the upstream has the tags", func() bool { return len(tagsOf(t, "http://"+p.address, "company/app", "")) == 4 })

	lookaside := filepath.Join(t.TempDir(), "sigstore")
	said := must(t, environment(t.TempDir(), "REGISTRY="+s.host, "USERNAME=admin", "PASSWORD="+adminPassword, "SCHEME=http", "DIR="+lookaside),
		filepath.Join(shared.root, "deploy/examples/write-lookaside.sh"), "company/app")
	if want := "4 signatures in " + lookaside + "\n"; said != want {
		t.Errorf("output of the script: %q, want %q", said, want)
	}
	if said, err := output(t, environment(t.TempDir(), "REGISTRY="+s.host, "USERNAME=admin", "PASSWORD=wrong", "SCHEME=http", "DIR="+lookaside),
		filepath.Join(shared.root, "deploy/examples/write-lookaside.sh"), "company/app"); err == nil || !strings.Contains(said, "Invalid username/password.") {
		t.Errorf("output of the script with a wrong password: %q, %v", said, err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	client := newContainers(t, &server{host: p.address})
	write(t, filepath.Join(client.home, ".config/containers/registries.d/lookaside.yaml"), "docker:\n  "+p.address+":\n    lookaside: file://"+lookaside+"\n    sigstore: file://"+lookaside+"\n", 0o600)
	remapped, err := json.Marshal(object{"default": []object{{"type": "reject"}}, "transports": object{"docker": object{p.address: []object{{
		"type": "signedBy", "keyType": "GPGKeys", "keyPath": key,
		"signedIdentity": object{"type": "remapIdentity", "prefix": p.address, "signedPrefix": s.host},
	}}}}})
	if err != nil {
		t.Fatal(err)
	}
	policy := write(t, filepath.Join(t.TempDir(), "policy.json"), string(remapped), 0o600)
	for tag, want := range map[string]bool{"1.0": true, "again": true, "multi": true, "unsigned": false} {
		if said, err := client.pull(t, policy, "company/app:"+tag, "--override-arch", "amd64"); (err == nil) != want {
			t.Errorf("skopeo copy of %s straight from the upstream: %v, want it to copy: %t\n%s", tag, err, want, said)
		}
	}
}
