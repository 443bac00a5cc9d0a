package storagetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/storage"
)

// mediaType is the media type of the manifests of the tests.
const mediaType = "application/vnd.oci.image.manifest.v1+json"

// RunManifests tests a storage that implements storage.Manifests. open returns an empty one.
func RunManifests(t *testing.T, open func(t *testing.T) storage.Storage) {
	t.Helper()
	s := open(t)
	m, ok := s.(storage.Manifests)
	if !ok {
		t.Fatalf("%T has no manifests", s)
	}
	config, layer := put(t, s, []byte("{}")), put(t, s, content(1000, 20))
	payload := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,`+
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":1000}]}`, mediaType, config, layer)
	dgst := digest.FromBytes(payload)
	for _, reference := range []string{string(dgst), string(dgst), "v1"} {
		if err := m.PutManifest(t.Context(), name, reference, mediaType, payload); err != nil {
			t.Fatalf("PutManifest(%s) = %v", reference, err)
		}
	}
	for _, reference := range []string{string(dgst), "v1"} {
		got, kind, err := m.GetManifest(t.Context(), name, reference)
		if err != nil || string(got) != string(payload) || kind != mediaType {
			t.Errorf("GetManifest(%s) = %q, %s, %v, want the bytes that were put", reference, got, kind, err)
		}
	}
	if _, _, err := m.GetManifest(t.Context(), name, "nosuch"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("GetManifest of an unknown tag = %v, want ErrNotFound", err)
	}
	lists(t, m, dgst)
	for range 2 {
		if err := m.DeleteManifest(t.Context(), name, "v1"); err != nil && !errors.Is(err, storage.ErrUnsupported) {
			t.Errorf("DeleteManifest of a tag = %v", err)
		}
		err := m.DeleteManifest(t.Context(), name, string(dgst))
		if errors.Is(err, storage.ErrUnsupported) {
			continue
		}
		if err != nil {
			t.Errorf("DeleteManifest = %v", err)
		}
		if _, _, err := m.GetManifest(t.Context(), name, string(dgst)); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("GetManifest of a deleted manifest = %v, want ErrNotFound", err)
		}
	}
}

// lists checks the lists of the repository of the tests, which has one manifest with the tag v1.
func lists(t *testing.T, m storage.Manifests, dgst digest.Digest) {
	t.Helper()
	for _, reference := range []string{string(dgst), "v1"} {
		if got, err := m.Resolve(t.Context(), name, reference); err != nil || got != dgst {
			t.Errorf("Resolve(%s) = %s, %v, want %s", reference, got, err, dgst)
		}
	}
	for _, reference := range []string{string(digest.FromString("none")), "nosuch"} {
		if got, err := m.Resolve(t.Context(), name, reference); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Resolve(%s) = %s, %v, want ErrNotFound", reference, got, err)
		}
	}
	if tags, err := m.Tags(t.Context(), name); err != nil || !slices.Equal(tags, []string{"v1"}) {
		t.Errorf("Tags = %q, %v, want v1", tags, err)
	}
	if tags, err := m.Tags(t.Context(), "suite/none"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Tags of an unknown name = %q, %v, want ErrNotFound", tags, err)
	}
	names, err := m.Catalog(t.Context())
	if !errors.Is(err, storage.ErrUnsupported) && (err != nil || !slices.Equal(names, []string{name})) {
		t.Errorf("Catalog = %q, %v, want %s", names, err, name)
	}
}
