package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// image returns a tiny OCI image for linux, with one layer that contains one file with this text.
func image(t *testing.T, architecture, text string) v1.Image {
	t.Helper()
	var archive bytes.Buffer
	squeezed := gzip.NewWriter(&archive)
	files := tar.NewWriter(squeezed)
	if err := files.WriteHeader(&tar.Header{Name: "text", Mode: 0o644, Size: int64(len(text))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(files, text); err != nil {
		t.Fatal(err)
	}
	for _, end := range []io.Closer{files, squeezed} {
		if err := end.Close(); err != nil {
			t.Fatal(err)
		}
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	plain := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	made, err := mutate.Append(plain, mutate.Addendum{Layer: layer, MediaType: types.OCILayer})
	if err != nil {
		t.Fatal(err)
	}
	config, err := made.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", architecture
	if made, err = mutate.ConfigFile(made, config); err != nil {
		t.Fatal(err)
	}
	return made
}

// index returns an OCI index with a tiny image for each architecture.
func index(t *testing.T, text string, architectures ...string) v1.ImageIndex {
	t.Helper()
	made := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, architecture := range architectures {
		made = mutate.AppendManifests(made, mutate.IndexAddendum{
			Add:        image(t, architecture, text+" for "+architecture),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}},
		})
	}
	return made
}

// ociLayout writes an image or an index as an OCI image layout and returns the reference that skopeo, podman and
// buildah read.
func ociLayout(t *testing.T, content mutate.Appendable) string {
	t.Helper()
	// podman derives a name from the path, so the path must not contain the test's name, which has capitals. TestMain
	// removes it.
	dir, err := os.MkdirTemp(shared.dir, "oci") //nolint:usetesting // for the reason above
	if err != nil {
		t.Fatal(err)
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	named := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "v1"})
	switch content := content.(type) {
	case v1.Image:
		err = path.AppendImage(content, named)
	case v1.ImageIndex:
		err = path.AppendIndex(content, named)
	default:
		err = fmt.Errorf("neither image nor index: %T", content)
	}
	if err != nil {
		t.Fatal(err)
	}
	return "oci:" + dir + ":v1"
}

// dockerArchive writes an image in the format of docker load.
func dockerArchive(t *testing.T, content v1.Image, reference string) string {
	t.Helper()
	tag, err := name.NewTag(reference, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(path, tag, content); err != nil {
		t.Fatal(err)
	}
	return path
}

// digestOf returns the digest of the manifest of an image or index.
func digestOf(t *testing.T, content interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	hash, err := content.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return hash.String()
}
