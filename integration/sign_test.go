package integration

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// TestSignWithTheRepositorysService assigns a service to the repository: a sign call without a service uses it.
func TestSignWithTheRepositorysService(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	s := startServer(t)
	admin := asAdmin(t, s)
	service := s.addService(t, "default", trusted, "")
	content := image(t, "amd64", "app")
	admin.push(t, ociLayout(t, content), "acme/app:1.0")
	repository := text(s.repository(t, "acme/app")["pulp_href"])

	var refused object
	s.call(t, http.MethodPost, repository+"sign/", object{}, http.StatusBadRequest, &refused)
	if _, there := refused["manifest_signing_service"]; !there {
		t.Errorf("a sign call without a service is answered %v", refused)
	}
	var patched struct {
		Task string `json:"task"`
	}
	s.call(t, http.MethodPatch, repository, object{"manifest_signing_service": service}, http.StatusAccepted, &patched)
	if task := s.finished(t, patched.Task); task["state"] != "completed" {
		t.Fatalf("PATCH: %v", task)
	}
	if got := s.get(t, repository)["manifest_signing_service"]; got != service {
		t.Fatalf("manifest_signing_service is %v, want %s", got, service)
	}
	if version := s.signed(t, repository, object{}); count(version, "added", "container.signature") != 1 {
		t.Errorf("the sign task made %v", version)
	}
	// Images are not signed again (compatibility.md#signing-again).
	if again := s.finished(t, s.sign(t, repository, object{})); again["state"] != "completed" || len(again["created_resources"].([]any)) != 0 {
		t.Errorf("signing again: %v", again)
	}
	// Within one second gpg makes identical signatures of the same claim, so there would be no new signature.
	time.Sleep(1100 * time.Millisecond)
	if version := s.signed(t, repository, object{"force": true}); count(version, "present", "container.signature") != 2 {
		t.Errorf("signing again by force made %v", version)
	}
}

// TestSignSomeTags signs only the tags of tags_list. An absent tag is an error that names it.
func TestSignSomeTags(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	s := startServer(t)
	admin := asAdmin(t, s)
	service := s.addService(t, "some", trusted, "")
	digests := map[string]string{}
	for _, tag := range []string{"1.0", "2.0", "3.0"} {
		content := image(t, "amd64", tag)
		admin.push(t, ociLayout(t, content), "acme/app:"+tag)
		digests[tag] = digestOf(t, content)
	}
	repository := text(s.repository(t, "acme/app")["pulp_href"])
	for sentence, body := range map[string]object{
		"a tag that is not there": {"manifest_signing_service": service, "tags_list": []string{"1.0", "4.0"}},
		"not a list":              {"manifest_signing_service": service, "tags_list": "1.0"},
		"an unknown service":      {"manifest_signing_service": signingServices + "01a20539-0000-7000-8000-000000000000/"},
		"not a service":           {"manifest_signing_service": repository},
		"rubbish for a service":   {"manifest_signing_service": "rubbish"},
		"an unknown field":        {"manifest_signing_service": service, "colour": "red"},
		"a foreign base path":     {"manifest_signing_service": service, "future_base_path": "UPPER bad/"},
	} {
		var refused object
		s.call(t, http.MethodPost, repository+"sign/", body, http.StatusBadRequest, &refused)
		if len(refused) == 0 {
			t.Errorf("%s: an empty answer", sentence)
		}
		if sentence == "a tag that is not there" && !strings.Contains(text(slices.Concat(refused["tags_list"].([]any))[0]), "4.0") {
			t.Errorf("%s: %v does not name it", sentence, refused)
		}
	}
	s.signed(t, repository, object{"manifest_signing_service": service, "tags_list": []string{"1.0", "3.0"}})
	for tag, want := range map[string]int{"1.0": 1, "2.0": 0, "3.0": 1} {
		served := s.signatures(t, "acme/app", digests[tag])
		if len(served) != want {
			t.Errorf("%d signatures on %s, want %d", len(served), tag, want)
		}
		for _, one := range served {
			standaloneVerify(t, s, trusted, "acme/app", digests[tag], tag, one)
		}
	}
}

// TestSignIndex signs an index of two architectures: its images, not the index. Each image can be pulled under a
// policy.
func TestSignIndex(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	s := startServer(t)
	admin := asAdmin(t, s)
	service := s.addService(t, "index", trusted, "")
	content := index(t, "both", "amd64", "arm64")
	admin.push(t, ociLayout(t, content), "acme/multi:1.0")
	repository := text(s.repository(t, "acme/multi")["pulp_href"])
	policy := admin.signedBy(t, trusted)
	if said, err := admin.pull(t, policy, "acme/multi:1.0", "--override-arch", "arm64"); err == nil {
		t.Fatalf("the index pulls before it is signed:\n%s", said)
	}

	version := s.signed(t, repository, object{"manifest_signing_service": service})
	if got := count(version, "added", "container.signature"); got != 2 {
		t.Errorf("%d signatures were made, want 2", got)
	}
	// skopeo serialises the index anew, so its digest differs from the local one.
	if served := s.signatures(t, "acme/multi", s.digest(t, "acme/multi", "1.0")); len(served) != 0 {
		t.Errorf("the index itself has %d signatures, want none", len(served))
	}
	manifest, err := content.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, child := range manifest.Manifests {
		served := s.signatures(t, "acme/multi", child.Digest.String())
		if len(served) != 1 {
			t.Fatalf("%d signatures on %s, want 1", len(served), child.Platform.Architecture)
		}
		standaloneVerify(t, s, trusted, "acme/multi", child.Digest.String(), "1.0", served[0])
		if said, err := admin.pull(t, policy, "acme/multi:1.0", "--override-arch", child.Platform.Architecture); err != nil {
			t.Errorf("skopeo copy of %s: %v\n%s", child.Platform.Architecture, err, said)
		}
		if said, err := admin.podmanPull(t, policy, "acme/multi:1.0", "--arch", child.Platform.Architecture); err != nil {
			t.Errorf("podman pull of %s: %v\n%s", child.Platform.Architecture, err, said)
		}
	}

	// sign_lists signs the index too; then the whole index can be copied under the policy.
	if version := s.signed(t, repository, object{"manifest_signing_service": service, "sign_lists": true}); count(version, "added", "container.signature") != 1 {
		t.Errorf("sign_lists made %v", version)
	}
	arguments := []string{"--policy", policy, "copy", "--all", "--src-tls-verify=false", "docker://" + s.host + "/acme/multi:1.0", "dir:" + filepath.Join(t.TempDir(), "all")}
	must(t, admin.env(), "skopeo", arguments...)
}

// TestPolicyRefuses checks that clients refuse unsigned images, signatures by another key, and signatures for another
// tag.
func TestPolicyRefuses(t *testing.T) {
	t.Parallel()
	trusted, stranger := keyNamed(t, "trusted"), keyNamed(t, "stranger")
	s := startServer(t)
	admin := asAdmin(t, s)
	ours, theirs := s.addService(t, "ours", trusted, ""), s.addService(t, "theirs", stranger, "")
	push := func(reference string, content v1.Image) { admin.push(t, ociLayout(t, content), reference) }
	repositoryOf := func(name string) string { return text(s.repository(t, name)["pulp_href"]) }

	push("acme/plain:1.0", image(t, "amd64", "plain"))
	push("acme/foreign:1.0", image(t, "amd64", "foreign"))
	s.signed(t, repositoryOf("acme/foreign"), object{"manifest_signing_service": theirs})
	moved := image(t, "amd64", "moved")
	push("acme/moved:1.0", moved)
	s.signed(t, repositoryOf("acme/moved"), object{"manifest_signing_service": ours})
	push("acme/moved:2.0", moved)

	policy := admin.signedBy(t, trusted)
	for sentence, test := range map[string]struct{ reference, says string }{
		"an unsigned image":                   {"acme/plain:1.0", "signature was required, but no signature exists"},
		"an image that another key signed":    {"acme/foreign:1.0", "Invalid GPG signature"},
		"a signature made for another tag":    {"acme/moved:2.0", "Signature for identity " + s.host + "/acme/moved:1.0 is not accepted"},
		"the tag for which it was made pulls": {"acme/moved:1.0", ""},
	} {
		for client, pull := range map[string]func(*testing.T, string, string, ...string) (string, error){"podman": admin.podmanPull, "skopeo": admin.pull} {
			t.Run(sentence+", "+client, func(t *testing.T) {
				said, err := pull(t, policy, test.reference)
				said = strings.ReplaceAll(said, `\"`, "")
				said = strings.ReplaceAll(said, `"`, "")
				switch {
				case test.says == "" && err != nil:
					t.Errorf("refused: %v\n%s", err, said)
				case test.says != "" && err == nil:
					t.Errorf("it pulls:\n%s", said)
				case !strings.Contains(said, test.says):
					t.Errorf("output %q, want %q", said, test.says)
				}
			})
		}
	}
}
