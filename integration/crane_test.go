package integration

import (
	"archive/tar"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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
			t.Errorf("pulled content: %s", got)
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
