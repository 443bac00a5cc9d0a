package storagetest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/storage"
)

// mediaType is that of the suite's manifests.
const mediaType = "application/vnd.oci.image.manifest.v1+json"

// RunManifests holds a storage that is a registry of its own against what storage.Manifests promises. open returns an empty one.
func RunManifests(t *testing.T, open func(t *testing.T) storage.Storage) {
	t.Helper()
	s := open(t)
	m, ok := s.(storage.Manifests)
	if !ok {
		t.Fatalf("%T has no manifests", s)
	}
	config, layer := put(t, s, []byte("{}")), put(t, s, content(1000, 20))
	payload := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},`+
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
			t.Errorf("GetManifest(%s) = %q, %s, %v, want what was put", reference, got, kind, err)
		}
	}
	if _, _, err := m.GetManifest(t.Context(), name, "nosuch"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("GetManifest of an unknown tag = %v, want ErrNotFound", err)
	}
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
