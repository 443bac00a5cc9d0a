package integration

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// TestClientsPushAndPull pushes an image with each client, and pulls each image with all clients.
func TestClientsPushAndPull(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	admin := asAdmin(t, s)
	pushes := map[string]func(t *testing.T, reference string){
		"podman": func(t *testing.T, reference string) {
			admin.podmanPush(t, ociLayout(t, image(t, "amd64", "podman")), reference)
		},
		"skopeo": func(t *testing.T, reference string) {
			admin.push(t, ociLayout(t, image(t, "amd64", "skopeo")), reference)
		},
		"skopeo in Docker's format": func(t *testing.T, reference string) {
			admin.push(t, ociLayout(t, image(t, "amd64", "v2s2")), reference, "--format", "v2s2")
		},
		"buildah": func(t *testing.T, reference string) {
			file := write(t, filepath.Join(t.TempDir(), "text"), "buildah", 0o600)
			container := strings.TrimSpace(admin.buildah(t, "from", "scratch"))
			admin.buildah(t, "copy", "--quiet", container, file, "/text")
			admin.buildah(t, "commit", "--quiet", "--signature-policy", admin.open, container, s.host+"/"+reference)
			admin.buildah(t, "push", "--quiet", "--tls-verify=false", "--signature-policy", admin.open, s.host+"/"+reference)
		},
		"docker": func(t *testing.T, reference string) {
			docker := newDockerUser(t)
			docker.must(t, "login", "--username", "admin", "--password", adminPassword, s.host)
			docker.must(t, "load", "--input", dockerArchive(t, image(t, "amd64", "docker"), s.host+"/"+reference))
			docker.must(t, "push", s.host+"/"+reference)
			docker.must(t, "rmi", s.host+"/"+reference)
		},
	}
	for client, push := range pushes {
		t.Run(client, func(t *testing.T) {
			name := "push/" + strings.ToLower(strings.NewReplacer(" ", "-", "'", "").Replace(client))
			push(t, name+":1.0")
			repository := s.repository(t, name)
			version := s.get(t, text(repository["latest_version_href"]))
			if version["number"] != 1.0 || count(version, "added", "container.tag") != 1 || count(version, "present", "container.manifest") != 1 {
				t.Errorf("the push made %v", version)
			}
			countsMatchLists(t, s.api, version)
			anonymous := newContainers(t, s)
			if said, err := anonymous.pull(t, anonymous.open, name+":1.0"); err != nil {
				t.Errorf("skopeo pull: %v\n%s", err, said)
			}
			if said, err := anonymous.podmanPull(t, anonymous.open, name+":1.0"); err != nil {
				t.Errorf("podman pull: %v\n%s", err, said)
			}
			t.Run("pulled with docker", func(t *testing.T) { newDockerUser(t).must(t, "pull", s.host+"/"+name+":1.0") })
		})
	}
}

// TestLogin logs in with podman and docker: the right password is accepted, a wrong one is refused, and a push without
// a login fails.
func TestLogin(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	clients := map[string]func(t *testing.T, password string) (string, error){
		"podman": func(t *testing.T, password string) (string, error) {
			return newContainers(t, s).podman(t, nil, "login", "--tls-verify=false", "--username", "admin", "--password", password, s.host)
		},
		"docker": func(t *testing.T, password string) (string, error) {
			return newDockerUser(t).run(t, "login", "--username", "admin", "--password", password, s.host)
		},
	}
	for client, login := range clients {
		t.Run(client, func(t *testing.T) {
			if said, err := login(t, adminPassword); err != nil || !strings.Contains(said, "Login Succeeded") {
				t.Errorf("the right password: %v\n%s", err, said)
			}
			if said, err := login(t, "wrong"); err == nil {
				t.Errorf("a wrong password is accepted:\n%s", said)
			}
		})
	}
	need(t, "skopeo")
	anonymous := newContainers(t, s)
	said, err := output(t, anonymous.env(), "skopeo", "--policy", anonymous.open, "copy", "--dest-tls-verify=false",
		ociLayout(t, image(t, "amd64", "anonymous")), "docker://"+s.host+"/anonymous/app:1.0")
	if err == nil {
		t.Errorf("a push without a login succeeds:\n%s", said)
	}
	if found := s.list(t, pushRepos); found.Count != 0 {
		t.Errorf("a refused push left %v", found.Results)
	}
}

// TestPodmanPushSignBy pushes an image together with its signature, and pulls it under a policy without a sign task.
func TestPodmanPushSignBy(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	s := startServer(t)
	admin := asAdmin(t, s)
	said, err := admin.podman(t, nil, "pull", "--quiet", "--signature-policy", admin.open, ociLayout(t, image(t, "amd64", "signed by its pusher")))
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	id := strings.TrimSpace(said[strings.LastIndex(strings.TrimSpace(said), "\n")+1:])
	for range 2 { // the second push adds only a signature
		admin.podmanPushID(t, []string{trusted.env()}, id, "acme/signed:1.0", "--sign-by", trusted.mail)
	}
	if said, err := admin.podmanPull(t, admin.signedBy(t, trusted), "acme/signed:1.0"); err != nil {
		t.Errorf("podman pull: %v\n%s", err, said)
	}
	version := s.get(t, text(s.repository(t, "acme/signed")["latest_version_href"]))
	if got := count(version, "present", "container.signature"); got == 0 {
		t.Errorf("no signature in %v", version)
	}
	if tasks := s.list(t, apiRoot+"tasks/"); tasks.Count != 0 {
		t.Errorf("pushes made tasks: %v", tasks.Results)
	}
}

// TestSkopeoCopySignBy copies an index with a signature of every manifest. skopeo uploads the signatures before it tags
// the index (compatibility.md#uploaded-signatures).
func TestSkopeoCopySignBy(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	s := startServer(t)
	admin := asAdmin(t, s)
	arguments := []string{"--policy", admin.open, "copy", "--all", "--dest-tls-verify=false", "--sign-by", trusted.fingerprint,
		ociLayout(t, index(t, "copied", "amd64", "arm64")), "docker://" + s.host + "/acme/copied:1.0"}
	must(t, admin.env(trusted.env()), "skopeo", arguments...)
	policy := admin.signedBy(t, trusted)
	for _, architecture := range []string{"amd64", "arm64"} {
		if said, err := admin.pull(t, policy, "acme/copied:1.0", "--override-arch", architecture); err != nil {
			t.Errorf("skopeo copy of %s: %v\n%s", architecture, err, said)
		}
	}
	version := s.get(t, text(s.repository(t, "acme/copied")["latest_version_href"]))
	if got := count(version, "present", "container.signature"); got != 3 {
		t.Errorf("%d signatures, want one on each of three manifests", got)
	}
}

// TestPipelineStep runs the example of a pipeline step, which signs with skopeo and uploads the signature with curl.
func TestPipelineStep(t *testing.T) {
	t.Parallel()
	need(t, "skopeo", "curl", "jq")
	trusted := keyNamed(t, "trusted")
	s := startServer(t)
	admin := asAdmin(t, s)
	content := image(t, "amd64", "pipeline")
	admin.push(t, ociLayout(t, content), "acme/pipeline:1.0")
	step := filepath.Join(shared.root, "deploy/examples/ci-sign-and-put.sh")
	said := must(t, admin.env(trusted.env(), "REGISTRY="+s.host, "REPOSITORY=acme/pipeline", "TAG=1.0", "KEY="+trusted.fingerprint,
		"USERNAME=admin", "PASSWORD="+adminPassword, "SCHEME=http"), step)
	if served := s.signatures(t, "acme/pipeline", digestOf(t, content)); len(served) != 1 {
		t.Fatalf("%d signatures after the step, want 1\n%s", len(served), said)
	}
	if said, err := admin.podmanPull(t, admin.signedBy(t, trusted), "acme/pipeline:1.0"); err != nil {
		t.Errorf("podman pull: %v\n%s", err, said)
	}
}

// TestBadUploads sends invalid content and names: every answer is a clear error, and no repository is created. See
// hostile-inputs.md#oversized-manifest, hostile-inputs.md#bad-digest, hostile-inputs.md#hostile-names and
// hostile-inputs.md#hostile-tags.
func TestBadUploads(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	const (
		wrongDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	)
	if status, _, answer := s.do(t, http.MethodPost, "/v2/bad/app/blobs/uploads/", nil, nil); status != http.StatusAccepted { // this creates the repository
		t.Fatalf("an upload is answered %d %s", status, answer)
	}
	manifest := `{"schemaVersion":2,"mediaType":"` + ociManifest + `","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + wrongDigest + `","size":2},"layers":[]}`
	for sentence, test := range map[string]struct {
		method, path, body string
		status             int
		code               string
	}{
		"a blob with a wrong digest":        {http.MethodPost, "/v2/bad/app/blobs/uploads/?digest=" + wrongDigest, "text", http.StatusBadRequest, "DIGEST_INVALID"},
		"a malformed digest":                {http.MethodPost, "/v2/bad/app/blobs/uploads/?digest=sha256:00", "text", http.StatusBadRequest, "DIGEST_INVALID"},
		"a manifest without its blobs":      {http.MethodPut, "/v2/bad/app/manifests/1.0", manifest, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN"},
		"a manifest with another digest":    {http.MethodPut, "/v2/bad/app/manifests/" + wrongDigest, manifest, http.StatusBadRequest, "DIGEST_INVALID"},
		"a manifest that is not JSON":       {http.MethodPut, "/v2/bad/app/manifests/1.0", "{", http.StatusBadRequest, "MANIFEST_INVALID"},
		"a manifest with a repeated member": {http.MethodPut, "/v2/bad/app/manifests/1.0", strings.Replace(manifest, "{", `{"schemaVersion":2,`, 1), http.StatusBadRequest, "MANIFEST_INVALID"},
		"a manifest over 4 MiB":             {http.MethodPut, "/v2/bad/app/manifests/1.0", strings.Repeat(" ", 4<<20) + manifest, http.StatusRequestEntityTooLarge, ""},
		"a name in upper case":              {http.MethodPut, "/v2/Bad/App/manifests/1.0", manifest, http.StatusBadRequest, "NAME_INVALID"},
		"a tag that starts with a dot":      {http.MethodPut, "/v2/bad/app/manifests/.x", manifest, http.StatusBadRequest, ""},
		"a tag of 129 characters":           {http.MethodPut, "/v2/bad/app/manifests/" + strings.Repeat("x", 129), manifest, http.StatusBadRequest, ""},
	} {
		status, _, answer := s.do(t, test.method, test.path, http.Header{"Content-Type": {ociManifest}}, []byte(test.body))
		var problem struct {
			Errors []struct{ Code, Message string }
		}
		if err := json.Unmarshal(answer, &problem); err != nil || len(problem.Errors) == 0 || problem.Errors[0].Message == "" {
			t.Errorf("%s: %d with the body %q", sentence, status, answer)
			continue
		}
		if status != test.status || test.code != "" && problem.Errors[0].Code != test.code {
			t.Errorf("%s: %d %s, want %d %s", sentence, status, answer, test.status, test.code)
		}
	}
	for _, repository := range s.list(t, pushRepos).Results {
		version := s.get(t, text(repository["latest_version_href"]))
		if version["number"] != 0.0 {
			t.Errorf("a refused upload made %v", version)
		}
	}
}
