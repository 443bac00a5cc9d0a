package pulp

import "github.com/opencontainers/go-digest"

// EmptyLayer is the digest of the gzipped empty tar that Docker and older builders use as the layer of a step that
// changes no file. Clients may reference it without an upload: see compatibility.md#empty-layer.
const EmptyLayer digest.Digest = "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"

// EmptyLayerContent returns the bytes of EmptyLayer.
func EmptyLayerContent() []byte {
	return []byte{
		0x1f, 0x8b, 0x08, 0x00, 0x00, 0x09, 0x6e, 0x88, 0x00, 0xff, 0x62, 0x18, 0x05, 0xa3, 0x60, 0x14,
		0x8c, 0x58, 0x00, 0x08, 0x00, 0x00, 0xff, 0xff, 0x2e, 0xaf, 0xb5, 0xef, 0x00, 0x04, 0x00, 0x00,
	}
}
