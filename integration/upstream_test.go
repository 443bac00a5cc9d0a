package integration

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// TestUpstreamStory pushes, signs and pulls in front of an existing registry, distribution, which stays usable by
// itself.
func TestUpstreamStory(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	upstream := startPeer(t)
	s := startServer(t, "COUNTERSIGN_UPSTREAM_URL="+upstream)
	admin := asAdmin(t, s)
	service := s.addService(t, "front", trusted, "")

	admin.podmanPush(t, ociLayout(t, image(t, "amd64", "front")), "acme/front:1.0")
	admin.push(t, ociLayout(t, index(t, "both", "amd64", "arm64")), "acme/front:multi")
	repository := text(s.repository(t, "acme/front")["pulp_href"])
	policy := admin.signedBy(t, trusted)
	if said, err := admin.pull(t, policy, "acme/front:1.0"); err == nil {
		t.Errorf("it pulls before it is signed:\n%s", said)
	}
	version := s.signed(t, repository, object{"manifest_signing_service": service})
	if got := count(version, "added", "container.signature"); got != 3 {
		t.Errorf("%d signatures were made, want 3", got)
	}
	countsMatchLists(t, s.api, version)
	if said, err := admin.podmanPull(t, policy, "acme/front:1.0"); err != nil {
		t.Errorf("podman pull: %v\n%s", err, said)
	}
	for _, architecture := range []string{"amd64", "arm64"} {
		if said, err := admin.pull(t, policy, "acme/front:multi", "--override-arch", architecture); err != nil {
			t.Errorf("skopeo copy of %s: %v\n%s", architecture, err, said)
		}
	}

	within(t, "the upstream lists the tags", func() bool { return slices.Equal(tagsOf(t, upstream, "acme/front", ""), []string{"1.0", "multi"}) })
	direct := newContainers(t, &server{host: strings.TrimPrefix(upstream, "http://")})
	for _, tag := range []string{"1.0", "multi"} {
		if said, err := direct.pull(t, admin.open, "acme/front:"+tag); err != nil {
			t.Errorf("skopeo copy of %s straight from the upstream: %v\n%s", tag, err, said)
		}
	}

	// All content is there after a restart.
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	if said, err := admin.pull(t, policy, "acme/front:1.0"); err != nil {
		t.Errorf("skopeo copy after a restart: %v\n%s", err, said)
	}
}

// tagsOf returns a repository's tags, without credentials.
func tagsOf(t *testing.T, registry, name, query string) []string {
	t.Helper()
	response, err := http.Get(registry + "/v2/" + name + "/tags/list" + query)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Tags []string }
	if err := json.Unmarshal(answer, &list); err != nil {
		t.Fatalf("%v: %s", err, answer)
	}
	slices.Sort(list.Tags)
	return list.Tags
}
