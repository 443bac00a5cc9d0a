package registryclient

import (
	"strings"

	"github.com/countersign/countersign/internal/pulp"
)

// ManifestTypes is the Accept header for manifests: the media types of images and of indexes that this server can
// store.
var ManifestTypes = strings.Join([]string{pulp.OCIIndex, pulp.OCIManifest, pulp.DockerList, pulp.DockerManifest}, ", ")
