package pulp

import "strings"

// The media types of manifests that this server stores.
const (
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	OCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	OCIIndex       = "application/vnd.oci.image.index.v1+json"
)

// MaxManifestSize is the size limit of a manifest in bytes. See compatibility.md#manifests.
const MaxManifestSize = 4 << 20

// MaxSignatureBody is the size limit in bytes of a request to the signature endpoint, and so of its response. See
// compatibility.md#signature-endpoint.
const MaxSignatureBody = 4_000_000

// IsList reports whether a media type is that of a manifest list or an index.
func IsList(mediaType string) bool { return mediaType == DockerList || mediaType == OCIIndex }

// IsForeign reports whether a media type is that of a layer that clients fetch from its URLs. Such a layer need not be
// in the registry.
func IsForeign(mediaType string) bool {
	return mediaType == "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" ||
		strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.nondistributable.v1.tar")
}
