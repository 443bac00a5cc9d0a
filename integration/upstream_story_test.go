package integration

import (
	"slices"
	"strings"
	"testing"
)

// TestUpstreamSeedStory has Pulp's guide told, whole, in front of bare distribution, with the same code as without it. Afterwards that registry is used directly.
func TestUpstreamSeedStory(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	for client, push := range seedPushes {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			p := newPeer(t)
			s := p.inFront(t, trusted.env())
			seedStory(t, s, trusted, push)
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

// usedDirectly demands that the upstream has a repository's tags and no others, as they are at the server under a path, and that each is copied straight from it.
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

// digestOf is what a tag of any kind stands for; empty where there is none.
func (p *upstreamPeer) digestOf(t *testing.T, name, tag string) string {
	t.Helper()
	header := map[string][]string{"Accept": {strings.Join([]string{ociManifest, "application/vnd.oci.image.index.v1+json",
		"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json"}, ", ")}}
	_, answered, _ := p.do(t, "HEAD", "/v2/"+name+"/manifests/"+tag, header, nil)
	return answered.Get("Docker-Content-Digest")
}
