package signing

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
)

// dummyManifest is the manifest that Validate signs.
const dummyManifest = `{
   "schemaVersion": 2,
   "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
   "config": {
      "mediaType": "application/vnd.docker.container.image.v1+json",
      "size": 2,
      "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
   },
   "layers": []
}
`

// Validate signs a fixed manifest with the reference "test" and verifies the signature. Services are validated so
// before they are added (compatibility.md#service-commands).
func Validate(ctx context.Context, s Signer, key PublicKey) error {
	manifest := []byte(dummyManifest)
	_, err := NewChecked(s, key).Sign(ctx, Request{
		Claim:    Claim{ManifestDigest: digest.FromBytes(manifest), DockerReference: "test"},
		Manifest: func(context.Context) ([]byte, error) { return manifest, nil },
	})
	if err != nil && fault.KindOf(err) == fault.Internal {
		return fmt.Errorf("validate the signing service: %w", err)
	}
	return err
}
