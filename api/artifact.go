package api

import (
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/api/internal/openapi"
	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

// artifact is the form of the bytes of a blob that the server has (compatibility.md#artifacts-and-guards). The server knows
// the hash of the blob's digest only.
type artifact struct {
	object
	File   string  `json:"file"`
	Size   int64   `json:"size"`
	MD5    *string `json:"md5"`
	SHA1   *string `json:"sha1"`
	SHA224 *string `json:"sha224"`
	SHA256 *string `json:"sha256"`
	SHA384 *string `json:"sha384"`
	SHA512 *string `json:"sha512"`
}

// hashes are the algorithms of an artifact's hashes.
var hashes = []string{"md5", "sha1", "sha224", "sha256", "sha384", "sha512"}

func showArtifact(b pulp.Blob) any {
	hex := b.Digest.Encoded()
	shown := artifact{
		object: objectOf(pulp.ArtifactCollection, b.ID, b.Stamps), File: "artifact/" + hex[:2] + "/" + hex[2:], Size: b.Size,
	}
	switch b.Digest.Algorithm() {
	case digest.SHA256:
		shown.SHA256 = &hex
	case digest.SHA384:
		shown.SHA384 = &hex
	case digest.SHA512:
		shown.SHA512 = &hex
	}
	return shown
}

// artifacts are the stored bytes of blobs, for administrators. An artifact has the id of its blob.
func (a *API) artifacts() resource[pulp.Blob] {
	own := filters{"orphaned_for": orphanedFor, "repository_version": inVersion(list.Present)}
	for _, algorithm := range hashes {
		own[algorithm] = hasHash
	}
	return resource[pulp.Blob]{
		model: "Artifact", form: artifact{}, list: list.ArtifactList, show: showEach(showArtifact),
		within:    func(req *request) ([]list.Filter, error) { return nil, req.requireAdministrator() },
		orderings: append([]string{"file", "size", "timestamp_of_interest"}, hashes...),
		filters:   mergeFilters(identityFilters(), own),
	}
}

// hasHash filters by the hash of the algorithm that the parameter names. It compares digests, which have an index.
var hasHash = filter{openapi.Text(), func(_ *API, _ *request, name string, values []string) (list.Filter, error) {
	if v := query.Last(values); v != "" {
		return list.Where("digest", list.Equal, name+":"+v), nil
	}
	return nil, nil
}}

func (a *API) artifactRoutes() []route {
	return []route{
		{path: pulp.ArtifactCollection, methods: get(listOf(a, a.artifacts()))},
		{path: pulp.ArtifactCollection + ":id/", href: "artifact_href", methods: get(readOf(a, a.artifacts()))},
	}
}

// artifactsOf returns the hrefs of the artifacts of blobs by the blobs' ids, for an attribute of the shown objects. A blob
// whose bytes the caller's repositories lack has none.
func (a *API) artifactsOf(req *request, attribute string, blobs []string) (map[string]*string, error) {
	if len(blobs) == 0 || !req.selected.Has(attribute) {
		return nil, nil
	}
	viewer, err := a.viewer(req)
	if err != nil {
		return nil, err
	}
	has, err := a.Store.Lists.HasArtifact(req.Context(), blobs, viewer)
	hrefs := make(map[string]*string, len(has))
	for id := range has {
		hrefs[id] = hrefOrNil(pulp.ArtifactCollection, id)
	}
	return hrefs, err
}
