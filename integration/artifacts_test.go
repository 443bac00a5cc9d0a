package integration

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

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
			t.Errorf("pulled content: %q", got)
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
			t.Errorf("%s differs from the pushed file", file)
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
