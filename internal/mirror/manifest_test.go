package mirror_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
)

// TestManifests proves that manifests are requested with all media types and compared with their digests, and that
// malformed references are refused.
func TestManifests(t *testing.T) {
	t.Parallel()
	payload := `{"schemaVersion":2}`
	sha256, sha512 := digest.FromString(payload), digest.SHA512.FromString(payload)
	other := digest.FromString("other")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, mediaType := range []string{pulp.DockerManifest, pulp.DockerList, pulp.OCIManifest, pulp.OCIIndex} {
			if !strings.Contains(r.Header.Get("Accept"), mediaType) {
				t.Errorf("the Accept header lacks %s", mediaType)
			}
		}
		switch r.URL.Path {
		case "/v2/src/app/manifests/absent":
			w.WriteHeader(http.StatusNotFound)
			return
		case "/v2/src/app/manifests/odd":
			w.Header().Set("Docker-Content-Digest", "sha256:../../x")
		default:
			w.Header().Set("Docker-Content-Digest", sha256.String())
		}
		w.Header().Set("Content-Type", pulp.OCIManifest+"; charset=utf-8")
		_, _ = io.WriteString(w, payload)
	}))
	defer s.Close()
	g := open127(t, s.URL, func(r *pulp.Remote) {
		r.Connection.Headers = []map[string]string{{"Accept": "text/html"}, {"Host": "evil.test"}}
	})
	if d, err := g.Head(t.Context(), "a"); err != nil || d != (mirror.Descriptor{MediaType: pulp.OCIManifest, Digest: sha256, Size: int64(len(payload))}) {
		t.Errorf("%+v, %v", d, err)
	}
	if d, err := g.Head(t.Context(), "odd"); err != nil || d.Digest != "" {
		t.Errorf("%+v, %v", d, err)
	}
	for reference, want := range map[string]digest.Digest{"a": sha256, sha256.String(): sha256, sha512.String(): sha512} {
		if m, err := g.Manifest(t.Context(), reference); err != nil || m.Digest != want || string(m.Payload) != payload || m.MediaType != pulp.OCIManifest {
			t.Errorf("%s: %+v, %v", reference, m, err)
		}
	}
	if _, err := g.Manifest(t.Context(), other.String()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("other bytes: %v", err)
	}
	if _, err := g.Head(t.Context(), "absent"); !fault.Is(err, fault.NotFound) || err.Error() != "404, message='Not Found', url='"+s.URL+"/v2/src/app/manifests/absent'" {
		t.Errorf("absent: %v", err)
	}
	for _, reference := range []string{"", "../../secret", "a/b", "a?b", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e", "a b"} {
		_, head := g.Head(t.Context(), reference)
		_, get := g.Manifest(t.Context(), reference)
		_, blob := g.Blob(t.Context(), digest.Digest(reference), 1)
		_, signatures := g.Signatures(t.Context(), mirror.Extension, digest.Digest(reference))
		for _, err := range []error{head, get, blob, signatures} {
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("%q: %v", reference, err)
			}
		}
	}
}
