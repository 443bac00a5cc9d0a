package pulp

import "strings"

// The media types of manifests that are stored (contract, appendix A).
const (
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	OCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	OCIIndex       = "application/vnd.oci.image.index.v1+json"
)

// MaxManifestSize is how many bytes a manifest may have (contract 3.3).
const MaxManifestSize = 4 << 20

// MaxSignatureBody is how many bytes the body of a signature PUT may have, and so the answer of its GET (contract 4).
const MaxSignatureBody = 4_000_000

// IsList says whether a media type is that of a manifest list or index.
func IsList(mediaType string) bool { return mediaType == DockerList || mediaType == OCIIndex }

// IsForeign says whether a media type is that of a layer that is fetched from elsewhere and need not be present (contract, appendix A).
func IsForeign(mediaType string) bool {
	return mediaType == "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" ||
		strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.nondistributable.v1.tar")
}
