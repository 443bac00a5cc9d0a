package integration

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// TestCrane pushes, changes, copies and deletes images and indexes with crane, and compares the results.
func TestCrane(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	crane := newPinned(t, "crane", s)
	one := image(t, "amd64", "crane")
	archive := dockerArchive(t, one, s.host+"/crane/app:docker")
	app := s.host + "/crane/app"

	// crane stores a password without checking it.
	crane.refused(t, "401 Unauthorized", "push", archive, app+":docker")
	crane.must(t, "auth", "login", "--username", "admin", "--password", "wrong", s.host)
	crane.refused(t, "Invalid username/password.", "push", archive, app+":docker")
	if found := s.list(t, pushRepos); found.Count != 0 {
		t.Errorf("a refused push left %v", found.Results)
	}
	crane.must(t, "auth", "login", "--username", "admin", "--password", adminPassword, s.host)

	// equal checks that a reference has this digest, for crane and in the registry.
	equal := func(reference, digest string) {
		t.Helper()
		name, tag, _ := strings.Cut(strings.TrimPrefix(reference, s.host+"/"), ":")
		if theirs, ours := crane.line(t, "digest", reference), s.digest(t, name, tag); theirs != digest || ours != digest {
			t.Errorf("%s is %s for crane and %s for us, want %s", reference, theirs, ours, digest)
		}
	}
	crane.must(t, "push", archive, app+":docker")
	equal(app+":docker", crane.line(t, "digest", "--tarball", archive))
	crane.must(t, "push", layoutDir(t, one), app+":amd64")
	equal(app+":amd64", digestOf(t, one))
	other := image(t, "arm64", "crane")
	crane.must(t, "push", layoutDir(t, other), app+":arm64")
	both := index(t, "crane", "amd64", "arm64")
	crane.must(t, "push", "--index", layoutDir(t, both), app+":outer")

	t.Run("manifest, config, blob", func(t *testing.T) {
		for ask, want := range map[string]func() ([]byte, error){"manifest": one.RawManifest, "config": one.RawConfigFile} {
			if raw, err := want(); err != nil || strings.TrimSuffix(crane.must(t, ask, app+":amd64"), "\n") != string(raw) {
				t.Errorf("crane %s is not %s (%v)", ask, raw, err)
			}
		}
		layers, err := one.Layers()
		if err != nil {
			t.Fatal(err)
		}
		layer := digestOf(t, layers[0])
		if got := describe("", []byte(crane.must(t, "blob", app+"@"+layer))).Digest; got != layer {
			t.Errorf("blob %s comes as %s", layer, got)
		}
	})
	t.Run("append and export", func(t *testing.T) {
		crane.must(t, "append", "--new_layer", tarOf(t, crane, "more.tar", "more", "appended"), "--base", app+":amd64", "--new_tag", app+":appended")
		crane.must(t, "validate", "--remote", app+":appended")
		crane.must(t, "export", app+":appended", "appended.tar")
		files := untar(t, crane.read(t, "appended.tar"))
		if files["text"] != "crane" || files["more"] != "appended" {
			t.Errorf("the image holds %q", files)
		}
		crane.must(t, "flatten", "--tag", app+":flat", app+":appended")
		crane.must(t, "export", app+":flat", "flat.tar")
		if flat := untar(t, crane.read(t, "flat.tar")); flat["text"] != "crane" || flat["more"] != "appended" {
			t.Errorf("the flattened image holds %q", flat)
		}
	})
	t.Run("mutate", func(t *testing.T) {
		crane.must(t, "mutate", "--label", "stage=test", "--annotation", "org.example.note=hello", "--tag", app+":mutated", app+":amd64")
		shown := s.manifestIn(t, "crane/app", s.digest(t, "crane/app", "mutated"))
		holds(t, "the changed image", shown, object{
			"labels": object{"stage": "test"}, "annotations": object{"org.example.note": "hello"}, "type": "image", "architecture": "amd64", "os": "linux",
		})
	})
	t.Run("index", func(t *testing.T) {
		crane.must(t, "index", "append", "--manifest", app+":amd64", "--manifest", app+":arm64", "--tag", app+":multi")
		crane.must(t, "validate", "--remote", app+":multi")
		listed := strings.Fields(crane.must(t, "index", "list", app+":multi"))
		for _, image := range []string{digestOf(t, one), digestOf(t, other)} {
			if !slices.Contains(listed, app+"@"+image) && !slices.Contains(listed, image) {
				t.Errorf("%s is not in the index: %q", image, listed)
			}
		}
		if got := crane.line(t, "digest", "--platform", "linux/arm64", app+":multi"); got != digestOf(t, other) {
			t.Errorf("linux/arm64 is %s, want %s", got, digestOf(t, other))
		}
		crane.must(t, "index", "filter", "--platform", "linux/amd64", "--tag", app+":filtered", app+":multi")
		shown := s.manifestIn(t, "crane/app", s.digest(t, "crane/app", "filtered"))
		if children, _ := shown["listed_manifests"].([]any); len(children) != 1 || shown["type"] != "index" {
			t.Errorf("the filtered index is %v", shown)
		}
	})
	t.Run("copy, tag, list", func(t *testing.T) {
		crane.must(t, "copy", app+":amd64", s.host+"/crane/copied:amd64")
		equal(s.host+"/crane/copied:amd64", digestOf(t, one))
		crane.must(t, "copy", "--all-tags", app, s.host+"/crane/all")
		tags := strings.Fields(crane.must(t, "ls", app))
		if copied := strings.Fields(crane.must(t, "ls", s.host+"/crane/all")); !slices.Equal(copied, tags) || len(tags) < 4 {
			t.Errorf("of the tags %q, %q were copied", tags, copied)
		}
		for _, tag := range tags {
			equal(s.host+"/crane/all:"+tag, s.digest(t, "crane/app", tag))
		}
		crane.must(t, "tag", app+":amd64", "again")
		equal(app+":again", digestOf(t, one))
		want := []string{"crane/all", "crane/app", "crane/copied"}
		if have := strings.Fields(crane.must(t, "catalog", s.host)); !slices.Equal(have, want) {
			t.Errorf("the catalogue is %q, want %q", have, want)
		}
	})
	t.Run("pull", func(t *testing.T) {
		crane.must(t, "pull", "--format", "oci", app+":outer", "outer")
		pulled, err := layout.ImageIndexFromPath(filepath.Join(crane.home, "outer"))
		if err != nil {
			t.Fatal(err)
		}
		inside, err := pulled.IndexManifest()
		if err != nil || len(inside.Manifests) != 1 || inside.Manifests[0].Digest.String() != s.digest(t, "crane/app", "outer") {
			t.Errorf("crane pulled %v (%v)", inside, err)
		}
		crane.must(t, "pull", app+":docker", "pulled.tar")
		if got := crane.line(t, "digest", "--tarball", "pulled.tar"); got != s.digest(t, "crane/app", "docker") {
			t.Errorf("what was pulled is %s", got)
		}
	})
	t.Run("delete", func(t *testing.T) {
		crane.must(t, "copy", app+":amd64", s.host+"/crane/gone:a")
		crane.must(t, "tag", s.host+"/crane/gone:a", "b")
		crane.must(t, "delete", s.host+"/crane/gone:a")
		crane.refused(t, "MANIFEST_UNKNOWN", "manifest", s.host+"/crane/gone:a")
		equal(s.host+"/crane/gone:b", digestOf(t, one))
		crane.must(t, "delete", s.host+"/crane/gone@"+digestOf(t, one))
		crane.refused(t, "MANIFEST_UNKNOWN", "manifest", s.host+"/crane/gone:b")
		if tags := crane.must(t, "ls", s.host+"/crane/gone"); tags != "" {
			t.Errorf("tags of a deleted manifest are left: %q", tags)
		}
	})
	s.versionsAreComplete(t, text(s.repository(t, "crane/app")["pulp_href"]))
}

// tarOf writes an archive of one file into the client's home directory and returns its name.
func tarOf(t *testing.T, p *pinned, archive, name, content string) string {
	t.Helper()
	var packed strings.Builder
	files := tar.NewWriter(&packed)
	if err := files.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(files, content); err != nil {
		t.Fatal(err)
	}
	if err := files.Close(); err != nil {
		t.Fatal(err)
	}
	return p.file(t, archive, packed.String())
}

// untar returns the files of an archive by their names.
func untar(t *testing.T, packed string) map[string]string {
	t.Helper()
	found := map[string]string{}
	files := tar.NewReader(strings.NewReader(packed))
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(files)
		if err != nil {
			t.Fatal(err)
		}
		found[header.Name] = string(content)
	}
}

// TestOras pushes artifacts with oras, attaches others to them, and transfers all of them by copy and by backup.
func TestOras(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	oras := newPinned(t, "oras", s)
	oras.refused(t, "401", "login", "--username", "admin", "--password", "wrong", s.host)
	recipe, oven := oras.file(t, "recipe.txt", "flour, water"), oras.file(t, "oven.json", `{"degrees": 250}`)
	app := s.host + "/oras/bread"
	push := []string{"push", "--artifact-type", "application/vnd.example.bread", "--annotation", "org.example.baker=ada",
		app + ":1.0", recipe + ":text/plain", oven + ":application/json"}
	oras.refused(t, "401", push...)
	oras.must(t, "login", "--username", "admin", "--password", adminPassword, s.host)
	oras.must(t, push...)
	bread := s.digest(t, "oras/bread", "1.0")
	if got := oras.line(t, "resolve", app+":1.0"); got != bread {
		t.Errorf("oras resolves to %s, want %s", got, bread)
	}
	shown := s.manifestIn(t, "oras/bread", bread)
	if notes, _ := shown["annotations"].(object); shown["type"] != "artifact" || notes["org.example.baker"] != "ada" {
		t.Errorf("the artifact is shown as %v", shown)
	}

	// attached returns the referrers that oras finds, by their digests, with their types.
	type referrer struct {
		Digest       string `json:"digest"`
		ArtifactType string `json:"artifactType"`
	}
	attached := func(t *testing.T, reference string, options ...string) (found []referrer) {
		t.Helper()
		var tree struct {
			Referrers []referrer `json:"referrers"`
		}
		answer := oras.must(t, append([]string{"discover", "--format", "json", reference}, options...)...)
		if err := json.Unmarshal([]byte(answer), &tree); err != nil {
			t.Fatalf("%v\n%s", err, answer)
		}
		return tree.Referrers
	}
	attach := func(t *testing.T, kind, content string, options ...string) (digest string) {
		t.Helper()
		note := oras.file(t, "note.txt", content)
		return oras.line(t, append([]string{"attach", "--artifact-type", kind, "--format", "go-template", "--template", "{{.digest}}", app + ":1.0", note + ":text/plain"}, options...)...)
	}
	review := referrer{attach(t, "application/vnd.example.review", "tasty"), "application/vnd.example.review"}
	sbom := referrer{attach(t, "application/vnd.example.sbom", "flour 1.2, water 0.9"), "application/vnd.example.sbom"}
	byDigest := func(a, b referrer) int { return strings.Compare(a.Digest, b.Digest) }
	want := slices.SortedFunc(slices.Values([]referrer{review, sbom}), byDigest)
	demand := func(t *testing.T, reference string) {
		t.Helper()
		if found := slices.SortedFunc(slices.Values(attached(t, reference)), byDigest); !slices.Equal(found, want) {
			t.Errorf("to %s is attached %v, want %v", reference, found, want)
		}
	}
	t.Run("pull", func(t *testing.T) {
		oras.must(t, "pull", "--output", "pulled", app+":1.0")
		if got := oras.read(t, "pulled/recipe.txt") + oras.read(t, "pulled/oven.json"); got != `flour, water{"degrees": 250}` {
			t.Errorf("what was pulled is %q", got)
		}
	})
	t.Run("discover", func(t *testing.T) {
		demand(t, app+":1.0")
		demand(t, app+"@"+bread)
		if found := attached(t, app+":1.0", "--artifact-type", review.ArtifactType); !slices.Equal(found, []referrer{review}) {
			t.Errorf("of that type is attached %v, want %v", found, review)
		}
		if version := s.get(t, text(s.repository(t, "oras/bread")["latest_version_href"])); count(version, "present", "container.manifest") != 3 {
			t.Errorf("the artifact and two that are attached make %v", version)
		}
	})
	t.Run("manifest and blob", func(t *testing.T) {
		if got := oras.must(t, "manifest", "fetch", app+":1.0"); describe("", []byte(got)).Digest != bread {
			t.Errorf("the manifest comes as %s", got)
		}
		loose := describe("", []byte("loose"))
		oras.must(t, "blob", "push", app, oras.file(t, "loose", "loose"))
		if got := oras.must(t, "blob", "fetch", "--output", "-", app+"@"+loose.Digest); got != "loose" {
			t.Errorf("the blob comes as %q", got)
		}
	})
	t.Run("copy", func(t *testing.T) {
		oras.must(t, "cp", "-r", app+":1.0", s.host+"/oras/copied:1.0,latest")
		demand(t, s.host+"/oras/copied:latest")
		if tags := strings.Fields(oras.must(t, "repo", "tags", s.host+"/oras/copied")); !slices.Equal(tags, []string{"1.0", "latest"}) {
			t.Errorf("the copy's tags are %q", tags)
		}
		if have := oras.must(t, "repo", "ls", s.host+"/oras"); !strings.Contains(have, "copied") || !strings.Contains(have, "bread") {
			t.Errorf("the repositories are %q", have)
		}
	})
	t.Run("backup and restore", func(t *testing.T) {
		oras.must(t, "backup", "--output", "backup.tar", "--include-referrers", app+":1.0")
		oras.must(t, "restore", "--input", "backup.tar", s.host+"/oras/restored:1.0")
		if got := s.rawManifest(t, "oras/restored", "1.0"); got != s.rawManifest(t, "oras/bread", bread) {
			t.Errorf("the restored manifest is %s", got)
		}
		demand(t, s.host+"/oras/restored:1.0")
	})
	t.Run("index", func(t *testing.T) {
		oras.must(t, "manifest", "index", "create", "--annotation", "org.example.kind=basket", s.host+"/oras/copied:basket", "1.0")
		shown := s.manifestIn(t, "oras/copied", s.digest(t, "oras/copied", "basket"))
		if children, _ := shown["listed_manifests"].([]any); len(children) != 1 || shown["type"] != "index" {
			t.Errorf("the index is shown as %v", shown)
		}
	})
	t.Run("delete", func(t *testing.T) {
		oras.must(t, "push", s.host+"/oras/gone:1", recipe)
		digest := oras.line(t, "resolve", s.host+"/oras/gone:1")
		oras.refused(t, "denied: A manifest refers to the blob.", "blob", "delete", "--force", s.host+"/oras/gone@"+describe("", []byte("flour, water")).Digest)
		oras.must(t, "manifest", "delete", "--force", s.host+"/oras/gone@"+digest)
		oras.refused(t, "not found", "manifest", "fetch", s.host+"/oras/gone:1")
	})
}

// TestHelm packages a chart with its signature, pushes both, and installs the pulled chart.
func TestHelm(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	s := startServer(t)
	helm := newPinned(t, "helm", s)
	charts := "oci://" + s.host + "/helm/charts"
	helm.file(t, "greeter/Chart.yaml", "apiVersion: v2\nname: greeter\nversion: 1.2.3+build\ndescription: says hello\nannotations: {org.example.note: hello}\n")
	helm.file(t, "greeter/values.yaml", "greeting: hello\n")
	helm.file(t, "greeter/templates/map.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: greeter}\ndata: {greeting: {{ .Values.greeting }}}\n")
	helm.file(t, "secret.gpg", trusted.run(t, "--export-secret-keys", trusted.fingerprint))
	helm.file(t, "public.gpg", trusted.run(t, "--export", trusted.fingerprint))
	helm.must(t, "package", "--sign", "--key", trusted.mail, "--keyring", "secret.gpg", "greeter")
	const archive = "greeter-1.2.3+build.tgz"

	helm.refused(t, "401", "registry", "login", "--plain-http", "--username", "admin", "--password", "wrong", s.host)
	helm.refused(t, "401", "push", "--plain-http", archive, charts)
	helm.must(t, "registry", "login", "--plain-http", "--username", "admin", "--password", adminPassword, s.host)
	helm.must(t, "push", "--plain-http", archive, charts)

	const repository, tag = "helm/charts/greeter", "1.2.3_build" // a tag cannot contain a plus sign
	shown := s.manifestIn(t, repository, s.digest(t, repository, tag))
	if notes, _ := shown["annotations"].(object); shown["type"] != "helm" || notes["org.opencontainers.image.title"] != "greeter" || notes["org.example.note"] != "hello" {
		t.Errorf("the chart is shown as %v", shown)
	}
	helm.file(t, "pulled/.keep", "")
	helm.must(t, "pull", "--plain-http", "--verify", "--keyring", "public.gpg", "--version", "1.2.3+build", "--destination", "pulled", charts+"/greeter")
	for _, file := range []string{archive, archive + ".prov"} {
		if helm.read(t, "pulled/"+file) != helm.read(t, file) {
			t.Errorf("%s is not what was pushed", file)
		}
	}
	if chart := helm.must(t, "show", "chart", "--plain-http", charts+"/greeter"); !strings.Contains(chart, "description: says hello") {
		t.Errorf("the chart is %s", chart)
	}
	for _, install := range [][]string{{"template"}, {"install", "--dry-run=client"}} {
		rendered := helm.must(t, append(install, "--plain-http", "--version", "^1", "--set", "greeting=ciao", "hi", charts+"/greeter")...)
		if !strings.Contains(rendered, "greeting: ciao") {
			t.Errorf("helm %s makes %s", install[0], rendered)
		}
	}
	helm.refused(t, "not found", "pull", "--plain-http", "--version", "9.9.9", charts+"/greeter")
}

// signer is a user of cosign with a key pair, without a transparency log and a timestamp service.
type signer struct{ *pinned }

// newSigner creates a signer and logs in to the server.
func newSigner(t *testing.T, s *server) signer {
	t.Helper()
	c := signer{newPinned(t, "cosign", s)}
	c.env = append(c.env, "COSIGN_PASSWORD=secret")
	c.must(t, "generate-key-pair")
	c.must(t, "generate-key-pair", "--output-key-prefix", "stranger")
	c.must(t, "login", "--username", "admin", "--password", adminPassword, s.host)
	return c
}

// legacy selects the older form of signatures, which are stored under tags. By default they are bundles, which are referrers.
const legacy = "--new-bundle-format=false"

// offline has the options with which sign and attest use no online services.
func offline(verb string, options ...string) []string {
	return append([]string{verb, "--yes", "--key", "cosign.key", "--use-signing-config=false", "--tlog-upload=false"}, options...)
}

// checked returns the options with which the verify commands use no online services. The key is the signer's, "cosign", or that
// of a "stranger".
func checked(verb, key string, options ...string) []string {
	return append([]string{verb, "--key", key + ".pub", "--insecure-ignore-tlog"}, options...)
}

// verifies checks that both forms of an image's signature are found and verify with the signer's key, and with no other.
func (c signer) verifies(t *testing.T, reference, digest string) {
	t.Helper()
	// If cosign finds no bundle, it uses the older form. The type in its output shows which form it found.
	for form, kind := range map[string]string{legacy: "cosign container image signature", "--new-bundle-format": "https://sigstore.dev/cosign/sign/v1"} {
		said := c.must(t, checked("verify", "cosign", form, reference)...)
		if !strings.Contains(said, `"docker-manifest-digest":"`+digest+`"`) || !strings.Contains(said, `"type":"`+kind+`"`) {
			t.Errorf("cosign verify %s %s says %s", form, reference, said)
		}
		c.refused(t, "signature", checked("verify", "stranger", form, reference)...)
	}
}

// TestCosign makes signatures and attestations in both forms of cosign, copies an image with them, signs it with a signing service
// too, and cleans up.
func TestCosign(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	s := startServer(t, trusted.env())
	cosign := newSigner(t, s)
	content := image(t, "amd64", "cosign")
	asAdmin(t, s).push(t, ociLayout(t, content), "cosign/app:1.0")
	digest := digestOf(t, content)
	app, exact := s.host+"/cosign/app:1.0", s.host+"/cosign/app@"+digest

	cosign.refused(t, "no signatures found", checked("verify", "cosign", app)...)
	cosign.must(t, "login", "--username", "admin", "--password", "wrong", s.host) // it does not check the password
	cosign.refused(t, "Invalid username/password.", offline("sign", exact)...)
	cosign.must(t, "login", "--username", "admin", "--password", adminPassword, s.host)

	predicate, sbom := cosign.file(t, "predicate.json", `{"tests": "passed"}`), cosign.file(t, "sbom.json", `{"spdxVersion": "SPDX-2.3"}`)
	for _, form := range []string{legacy, "--new-bundle-format"} {
		cosign.must(t, offline("sign", form, exact)...)
		cosign.must(t, offline("attest", form, "--type", "custom", "--predicate", predicate, exact)...)
		if said := cosign.must(t, checked("verify-attestation", "cosign", form, "--type", "custom", app)...); !strings.Contains(said, "application/vnd.in-toto+json") {
			t.Errorf("cosign verify-attestation %s says %s", form, said)
		}
		cosign.refused(t, "signature", checked("verify-attestation", "stranger", form, "--type", "custom", app)...)
	}
	cosign.must(t, "attach", "sbom", "--type", "spdx", "--input-format", "json", "--sbom", sbom, exact)
	cosign.verifies(t, app, digest)
	if got := cosign.must(t, "download", "sbom", app); strings.TrimSpace(got) != cosign.read(t, sbom) {
		t.Errorf("the SBOM comes as %s", got)
	}
	companion := "sha256-" + strings.TrimPrefix(digest, "sha256:")
	if got := cosign.line(t, "triangulate", app); got != s.host+"/cosign/app:"+companion+".sig" {
		t.Errorf("the signature is at %s", got)
	}
	shownAs(t, s, "cosign/app", digest, companion)

	t.Run("copy", func(t *testing.T) {
		cosign.must(t, "copy", app, s.host+"/cosign/copied:1.0")
		for _, kind := range []string{".sig", ".att", ".sbom"} {
			if s.rawManifest(t, "cosign/copied", companion+kind) != s.rawManifest(t, "cosign/app", companion+kind) {
				t.Errorf("the copy's %s is another", kind)
			}
		}
		cosign.must(t, checked("verify", "cosign", legacy, s.host+"/cosign/copied:1.0")...)
		// cosign does not copy referrers; oras copies them and no tags.
		oras := newPinned(t, "oras", s)
		oras.must(t, "login", "--username", "admin", "--password", adminPassword, s.host)
		oras.must(t, "cp", "-r", app, s.host+"/cosign/copied:1.0")
		cosign.verifies(t, s.host+"/cosign/copied:1.0", digest)
	})
	t.Run("save and load", func(t *testing.T) {
		cosign.must(t, "save", "--dir", "saved", app)
		cosign.must(t, "load", "--dir", "saved", s.host+"/cosign/loaded:1.0")
		cosign.must(t, checked("verify", "cosign", legacy, s.host+"/cosign/loaded:1.0")...)
	})
	t.Run("signed by us too", func(t *testing.T) {
		repository := text(s.repository(t, "cosign/app")["pulp_href"])
		version := s.signed(t, repository, object{"manifest_signing_service": s.addService(t, "trusted", trusted, "")})
		if added := count(version, "added", "container.signature"); added != 1 || len(s.signatures(t, "cosign/app", digest)) != 1 {
			t.Errorf("%d signatures, want one on the image and none on what cosign made", added)
		}
		cosign.verifies(t, app, digest)
	})
	t.Run("index", func(t *testing.T) {
		asAdmin(t, s).push(t, ociLayout(t, index(t, "cosign", "amd64", "arm64")), "cosign/multi:1.0")
		list := s.digest(t, "cosign/multi", "1.0")
		multi := s.host + "/cosign/multi@" + list
		for _, form := range []string{legacy, "--new-bundle-format"} {
			cosign.must(t, offline("sign", form, "--recursive", multi)...)
		}
		inside, err := v1.ParseIndexManifest(strings.NewReader(s.rawManifest(t, "cosign/multi", list)))
		if err != nil || len(inside.Manifests) != 2 {
			t.Fatalf("the index is %v (%v)", inside, err)
		}
		cosign.verifies(t, multi, list)
		for _, child := range inside.Manifests {
			cosign.verifies(t, s.host+"/cosign/multi@"+child.Digest.String(), child.Digest.String())
		}
	})
	t.Run("clean", func(t *testing.T) {
		cosign.must(t, "clean", "--force", app)
		if tags := tagsOf(t, "http://"+s.host, "cosign/app", ""); !slices.Equal(tags, []string{"1.0"}) {
			t.Errorf("cosign clean leaves %q", tags)
		}
		for _, form := range []string{legacy, "--new-bundle-format"} {
			cosign.refused(t, "no signatures found", checked("verify", "cosign", form, app)...)
		}
	})
	s.versionsAreComplete(t, text(s.repository(t, "cosign/app")["pulp_href"]))
}

// shownAs checks the types that the REST API shows for the artifacts of cosign: three tags, and two bundles that are referrers.
func shownAs(t *testing.T, s *server, repository, digest, companion string) {
	t.Helper()
	for suffix, want := range map[string]string{".sig": "cosign_signature", ".att": "cosign_attestation", ".sbom": "cosign_sbom"} {
		if got := s.manifestIn(t, repository, s.digest(t, repository, companion+suffix))["type"]; got != want {
			t.Errorf("%s is shown as %v, want %s", suffix, got, want)
		}
	}
	var referrers struct {
		Manifests []descriptor `json:"manifests"`
	}
	s.call(t, http.MethodGet, "/v2/"+repository+"/referrers/"+digest, nil, http.StatusOK, &referrers)
	if len(referrers.Manifests) != 2 {
		t.Errorf("%d manifests refer to the image, want a signature and an attestation: %v", len(referrers.Manifests), referrers.Manifests)
	}
	for _, bundle := range referrers.Manifests {
		if got := s.manifestIn(t, repository, bundle.Digest)["type"]; got != "cosign_attestation_bundle" {
			t.Errorf("the bundle %s is shown as %v", bundle.Digest, got)
		}
	}
	version := s.get(t, text(s.repository(t, repository)["latest_version_href"]))
	if manifests, tags := count(version, "present", "container.manifest"), count(version, "present", "container.tag"); manifests != 6 || tags != 4 {
		t.Errorf("%d manifests and %d tags, want an image and five that cosign made, and four tags", manifests, tags)
	}
}

// TestCosignSignaturesAreMirrored syncs one tag of a registry without a referrers API, which stores both forms under tags. They are
// synced although the filter matches only the tag of the image, and the referrers API lists the bundle here.
func TestCosignSignaturesAreMirrored(t *testing.T) {
	t.Parallel()
	source := startPeer(t)
	s := startServer(t, allowLoopback)
	cosign := newSigner(t, s)
	content := image(t, "amd64", "cosign")
	copyTo(t, source, "app:1.0", content)
	copyTo(t, source, "app:2.0", image(t, "amd64", "another"))
	exact := strings.TrimPrefix(source, "http://") + "/app@" + digestOf(t, content)
	for _, form := range []string{legacy, "--new-bundle-format"} {
		cosign.must(t, offline("sign", form, exact)...)
	}
	remote := s.make(t, remotes, object{"name": "app", "url": source, "upstream_name": "app", "include_tags": []string{"1.0"}})
	repository := s.make(t, containerRepos, object{"name": "app", "remote": remote})
	s.act(t, repository+"sync/", object{})
	s.distribute(t, "mirror/app", object{"repository": repository})
	cosign.verifies(t, s.host+"/mirror/app:1.0", digestOf(t, content))
	companion := "sha256-" + strings.TrimPrefix(digestOf(t, content), "sha256:")
	if tags := tagsOf(t, "http://"+s.host, "mirror/app", ""); !slices.Equal(tags, []string{"1.0", companion, companion + ".sig"}) {
		t.Errorf("the mirror has %q", tags)
	}
	// With signed_only, a sync includes an image whose only signature is a bundle, and skips an unsigned image.
	bundled := image(t, "amd64", "bundled")
	copyTo(t, source, "app:3.0", bundled)
	cosign.must(t, offline("sign", "--new-bundle-format", strings.TrimPrefix(source, "http://")+"/app@"+digestOf(t, bundled))...)
	all := s.make(t, remotes, object{"name": "all", "url": source, "upstream_name": "app", "includes": []string{}})
	signed := s.make(t, containerRepos, object{"name": "signed", "remote": all})
	s.act(t, signed+"sync/", object{"signed_only": true, "mirror": true})
	s.distribute(t, "signed/app", object{"repository": signed})
	other := "sha256-" + strings.TrimPrefix(digestOf(t, bundled), "sha256:")
	want := []string{"1.0", "3.0", companion, companion + ".sig", other}
	slices.Sort(want)
	if tags := tagsOf(t, "http://"+s.host, "signed/app", ""); !slices.Equal(tags, want) {
		t.Errorf("the mirror of signed images has %q, want %q", tags, want)
	}
	cosign.verifies(t, s.host+"/signed/app:1.0", digestOf(t, content))
	cosign.must(t, checked("verify", "cosign", "--new-bundle-format", s.host+"/signed/app:3.0")...)
}
