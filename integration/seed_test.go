package integration

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// form is the expected form of a JSON value, as text.
type form = regexp.Regexp

const uuid = `[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`

var (
	anyTime  = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$`)
	anyCID   = regexp.MustCompile(`^[0-9a-f]{32}$`)
	anySHA   = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	anySkop  = regexp.MustCompile(`^atomic \d+\.`)
	repoHref = regexp.MustCompile(`^` + pushRepos + uuid + `/$`)
)

// holds checks that an object has every field of want, with exactly that value or form.
func holds(t *testing.T, what string, have object, want map[string]any) {
	t.Helper()
	for field, wanted := range want {
		value, there := have[field]
		if !there {
			t.Errorf("%s lacks the field %s", what, field)
			continue
		}
		switch wanted := wanted.(type) {
		case *form:
			if !wanted.MatchString(text(value)) {
				t.Errorf("%s: %s is %v, want %v", what, field, value, wanted)
			}
		case nil, bool, string, float64:
			if value != wanted {
				t.Errorf("%s: %s is %v, want %v", what, field, value, wanted)
			}
		case []any:
			list, is := value.([]any)
			if !is || !slices.Equal(list, wanted) {
				t.Errorf("%s: %s is %v, want %v", what, field, value, wanted)
			}
		case object:
			if inner, is := value.(object); !is || len(inner) != len(wanted) {
				t.Errorf("%s: %s is %v, want %v", what, field, value, wanted)
			} else {
				holds(t, what+"."+field, inner, wanted)
			}
		default:
			t.Fatalf("no comparison for %T", wanted)
		}
	}
}

// TestSeedStory follows Pulp's guide to signing images with the guide's own commands and checks every field that the
// guide prints.
func TestSeedStory(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	for client, push := range seedPushes {
		t.Run(client, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, trusted.env())
			seedStory(t, s, s, trusted, push)
		})
	}
}

// seedPushes push the guide's image to name:tag, each with one of the clients of the guide.
var seedPushes = map[string]func(t *testing.T, admin *containers, reference string){
	"podman": func(t *testing.T, admin *containers, reference string) {
		admin.podmanPush(t, ociLayout(t, image(t, "amd64", "minio")), reference)
	},
	"skopeo": func(t *testing.T, admin *containers, reference string) {
		admin.push(t, ociLayout(t, image(t, "amd64", "minio")), reference)
	},
	"docker": func(t *testing.T, admin *containers, reference string) {
		docker, host := newDockerUser(t), admin.server.host
		docker.must(t, "login", "--username", admin.server.user, "--password", admin.server.password, host)
		docker.must(t, "load", "--input", dockerArchive(t, image(t, "amd64", "minio"), host+"/"+reference))
		docker.must(t, "push", host+"/"+reference)
		docker.must(t, "rmi", host+"/"+reference)
		docker.must(t, "pull", host+"/"+reference)
	},
}

// seedStory needs a server that has the key. The operator creates the signing service, and the user of s does the rest.
func seedStory(t *testing.T, s, operator *server, trusted *key, push func(*testing.T, *containers, string)) {
	t.Helper()
	need(t, "podman", "skopeo")
	user := asUser(t, s)
	push(t, user, "test/minio:v1")

	repository := s.repository(t, "test/minio")
	href := text(repository["pulp_href"])
	if !repoHref.MatchString(href) {
		t.Fatalf("the repository's href is %q", href)
	}
	holds(t, "repository", repository, object{
		"description": nil, "latest_version_href": href + "versions/1/", "manifest_signing_service": nil, "name": "test/minio", "pulp_created": anyTime,
		"pulp_href": href, "pulp_labels": object{}, "retain_repo_versions": nil, "versions_href": href + "versions/",
	})

	service := addSeedService(t, operator, trusted)
	operator.allowSigning(t, service, s.user)
	holds(t, "service", s.get(t, service), object{
		"name": "signing-service-test", "pubkey_fingerprint": trusted.fingerprint, "pulp_created": anyTime, "pulp_href": service,
		"public_key": regexp.MustCompile(`(?s)^-----BEGIN PGP PUBLIC KEY BLOCK-----\n.*\n-----END PGP PUBLIC KEY BLOCK-----\n$`),
		"script":     regexp.MustCompile(`^/.*/bash-script\.sh$`),
	})

	before := time.Now().Truncate(time.Second)
	task := s.finished(t, s.sign(t, href, object{"manifest_signing_service": service}))
	holds(t, "task", task, object{
		"child_tasks": []any{}, "created_resources": []any{href + "versions/2/"}, "error": nil, "finished_at": anyTime, "logging_cid": anyCID,
		"name": "pulp_container.app.tasks.sign.sign", "parent_task": nil, "pulp_created": anyTime, "reserved_resources_record": []any{href},
		"started_at": anyTime, "state": "completed", "task_group": nil, "worker": regexp.MustCompile(`^` + apiRoot + `workers/` + uuid + `/$`),
	})
	if _, is := task["progress_reports"].([]any); !is {
		t.Errorf("task: progress_reports is %v, want a list", task["progress_reports"])
	}

	checkSeedVersion(t, s, href, href+"versions/2/")

	found := s.list(t, signatureList+"?repository_version="+href+"versions/2/")
	if found.Count != 1 {
		t.Fatalf("%d signatures in the version, want 1", found.Count)
	}
	digest := text(s.list(t, manifestList+"?repository_version="+href+"versions/2/").Results[0]["digest"])
	one := found.Results[0]
	sum := text(one["digest"])
	holds(t, "signature", one, object{
		"creator": anySkop, "digest": anySHA, "key_id": trusted.id, "name": digest + "@" + strings.TrimPrefix(sum, "sha256:")[:32], "pulp_created": anyTime,
		"pulp_href":       regexp.MustCompile(`^` + signatureList + uuid + `/$`),
		"signed_manifest": regexp.MustCompile(`^` + manifestList + uuid + `/$`), "type": "atomic",
	})
	if stamp, _ := one["timestamp"].(float64); int64(stamp) < before.Unix() || int64(stamp) > time.Now().Unix()+1 {
		t.Errorf("signature: timestamp is %v, want Unix seconds of the signing", one["timestamp"])
	}
	if got := text(s.get(t, text(one["signed_manifest"]))["digest"]); got != digest {
		t.Errorf("signed_manifest is %s, want %s", got, digest)
	}

	served := s.signatures(t, "test/minio", digest)
	if len(served) != 1 || served[0].Name != one["name"] || served[0].Type != "atomic" || served[0].SchemaVersion != 2 {
		t.Fatalf("the extension serves %+v", served)
	}
	standaloneVerify(t, s, trusted, "test/minio", digest, "v1", served[0])

	policy := user.signedBy(t, trusted)
	if said, err := user.podmanPull(t, policy, "test/minio:v1"); err != nil {
		t.Errorf("podman pull of the signed image: %v\n%s", err, said)
	}
	if said, err := newContainers(t, s).pull(t, policy, "test/minio:v1"); err != nil {
		t.Errorf("skopeo copy of the signed image, anonymously: %v\n%s", err, said)
	}
}

// addSeedService runs the guide's exact command line, through a link with the name of the guide's program.
func addSeedService(t *testing.T, s *server, k *key) string {
	t.Helper()
	dir := t.TempDir()
	link := filepath.Join(dir, "pulpcore-manager")
	if err := os.Symlink(s.command.Program, link); err != nil {
		t.Fatal(err)
	}
	path := write(t, filepath.Join(dir, "scripts/bash-script.sh"), seedScript, 0o755)
	said := must(t, append(slices.Clone(s.env), k.env()), link, "add-signing-service", "signing-service-test", path, k.id, "--class", "container:ManifestSigningService")
	if want := "Successfully added signing service signing-service-test for key " + k.fingerprint + ".\n"; !strings.HasSuffix(said, want) {
		t.Errorf("add-signing-service said %q, want %q", said, want)
	}
	if listed := must(t, s.env, link, "list-signing-services"); !strings.Contains(listed, "signing-service-test\n") {
		t.Errorf("list-signing-services said %q", listed)
	}
	found := s.list(t, signingServices) // the first start may have created another one; the newest is the first
	if found.Count == 0 || found.Results[0]["name"] != "signing-service-test" {
		t.Fatalf("signing services: %v, want the new one first", found.Results)
	}
	return text(found.Results[0]["pulp_href"])
}

// checkSeedVersion compares a signed version with the guide's, and each of its counts with the list at its href.
func checkSeedVersion(t *testing.T, s *server, repository, version string) {
	t.Helper()
	entry := func(count float64, collection, how string) object {
		return object{"count": count, "href": apiRoot + "content/container/" + collection + "/?" + how + "=" + version}
	}
	have := s.get(t, version)
	holds(t, "version", have, object{
		"base_version": nil, "number": 2.0, "pulp_created": anyTime, "pulp_href": version, "repository": repository,
		"content_summary": object{
			"added": object{"container.signature": entry(1, "signatures", "repository_version_added")},
			"present": object{
				"container.blob":      entry(2, "blobs", "repository_version"),
				"container.manifest":  entry(1, "manifests", "repository_version"),
				"container.signature": entry(1, "signatures", "repository_version"),
				"container.tag":       entry(1, "tags", "repository_version"),
			},
			"removed": object{},
		},
	})
	countsMatchLists(t, s.api, have)
}

// countsMatchLists compares each count of a version's summary with the list at its href.
func countsMatchLists(t *testing.T, a api, version object) {
	t.Helper()
	summaries, _ := version["content_summary"].(object)
	for summary, kinds := range summaries {
		for kind, entry := range kinds.(object) {
			at, _ := entry.(object)
			if listed := a.list(t, text(at["href"])).Count; listed != count(version, summary, kind) {
				t.Errorf("%s: %d %s %s, but its href lists %d", version["pulp_href"], count(version, summary, kind), kind, summary, listed)
			}
		}
	}
}

// standaloneVerify verifies a stored signature with skopeo, against the manifest's bytes, the reference and the key.
func standaloneVerify(t *testing.T, s *server, k *key, name, digest, tag string, one signature) {
	t.Helper()
	need(t, "skopeo")
	accept := http.Header{"Accept": {"*/*"}}
	status, _, manifest := s.do(t, http.MethodGet, "/v2/"+name+"/manifests/"+digest, accept, nil)
	if status != http.StatusOK {
		t.Fatalf("manifest %s: %d", digest, status)
	}
	dir := t.TempDir()
	manifestFile := write(t, filepath.Join(dir, "manifest.json"), string(manifest), 0o600)
	signatureFile := write(t, filepath.Join(dir, "signature"), string(one.Content), 0o600)
	said := must(t, environment(dir, k.env()), "skopeo", "standalone-verify", manifestFile, s.host+"/"+name+":"+tag, k.fingerprint, signatureFile)
	if !strings.Contains(said, "Signature verified, digest "+digest) {
		t.Errorf("standalone-verify of %s said %q", strconv.Quote(one.Name), said)
	}
}
