package matrix_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/signing"
)

// image is an image without layers that has been pushed.
type image struct {
	config   string
	manifest string
}

// pushedImage is the image that users push.
var pushedImage = newImage("pushed by users")

func newImage(label string) image {
	config := `{"architecture":"amd64","os":"linux","author":"` + label + `","rootfs":{"type":"layers","diff_ids":[]}}`
	manifest, _ := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": pulp.OCIManifest, "layers": []any{},
		"config": map[string]any{
			"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest.FromString(config), "size": len(config),
		},
	})
	return image{config, string(manifest)}
}

func (i image) digest() string     { return digest.FromString(i.manifest).String() }
func (i image) configBlob() string { return digest.FromString(i.config).String() }

// push pushes an image to tags. The result is the first response that is not 201, or the last one.
func (s *server) push(t *testing.T, authorization, name string, i image, tags ...string) response {
	t.Helper()
	blob := http.Header{"Content-Type": {"application/octet-stream"}}
	r := s.send(t, authorization, http.MethodPost, "/v2/"+name+"/blobs/uploads/?digest="+i.configBlob(), blob, []byte(i.config))
	for _, tag := range tags {
		if r.status != http.StatusCreated {
			return r
		}
		r = s.putManifest(t, authorization, name, i, tag)
	}
	return r
}

func (s *server) putManifest(t *testing.T, authorization, name string, i image, tag string) response {
	t.Helper()
	manifest := http.Header{"Content-Type": {pulp.OCIManifest}}
	return s.send(t, authorization, http.MethodPut, "/v2/"+name+"/manifests/"+tag, manifest, []byte(i.manifest))
}

// mustPush is push as an administrator, which must succeed.
func (s *server) mustPush(t *testing.T, name string, i image, tags ...string) {
	t.Helper()
	if r := s.push(t, s.admin.basic(), name, i, tags...); r.status != http.StatusCreated {
		t.Fatalf("push of %s: %v", name, r)
	}
}

// signature returns the body of a PUT of a signature of an image.
func (s *server) signature(t *testing.T, name string, i image) []byte {
	t.Helper()
	raw := s.key.Sign(t, signing.Claim{
		ManifestDigest: digest.Digest(i.digest()), DockerReference: s.host + "/" + name + ":v1", Creator: "test",
	}, time.Now())
	body, _ := json.Marshal(map[string]any{
		"schemaVersion": 2, "type": "atomic", "name": i.digest() + "@" + strings.Repeat("0", 32),
		"content": base64.StdEncoding.EncodeToString(raw),
	})
	return body
}
