package api

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/countersign/countersign/api/internal/openapi"
	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/verify"
)

// contentObject holds the fields of content units of every kind.
type contentObject struct {
	object
	Labels     pulp.Labels `json:"pulp_labels"`
	VulnReport *string     `json:"vuln_report"` // always null here
}

func contentOf(kind pulp.Kind, id string, l pulp.Labels, s pulp.Stamps) contentObject {
	return contentObject{object: objectOf(kind.Collection(), id, s), Labels: labelsOf(l)}
}

type tag struct {
	contentObject
	Name     string `json:"name"`
	Manifest string `json:"tagged_manifest"`
}

type manifest struct {
	contentObject
	Digest        string          `json:"digest"`
	SchemaVersion int             `json:"schema_version"`
	MediaType     string          `json:"media_type"`
	Listed        []string        `json:"listed_manifests"`
	Config        *string         `json:"config_blob"`
	Blobs         []string        `json:"blobs"`
	Annotations   json.RawMessage `json:"annotations"`
	ImageLabels   json.RawMessage `json:"labels"`
	Bootable      bool            `json:"is_bootable"`
	Flatpak       bool            `json:"is_flatpak"`
	Type          string          `json:"type"`
	Architecture  *string         `json:"architecture"`
	OS            *string         `json:"os"`
	Size          *int64          `json:"compressed_image_size"`
}

type blob struct {
	contentObject
	Artifact *string `json:"artifact"` // null while the bytes are absent
	Digest   string  `json:"digest"`
}

type signature struct {
	contentObject
	Name        string  `json:"name"`
	Digest      string  `json:"digest"`
	Type        string  `json:"type"`
	KeyID       string  `json:"key_id"`
	Fingerprint *string `json:"fingerprint"`
	Timestamp   int64   `json:"timestamp"`
	Creator     string  `json:"creator"`
	Manifest    string  `json:"signed_manifest"`

	// Fields of our own; each needs a line in testdata/differences.tsv.
	Reference string   `json:"docker_reference"`
	Verified  bool     `json:"verified"`         // by the key of a signing service that exists now; not stored
	Services  []string `json:"signing_services"` // that have the key, of those that the caller may view
}

func showTag(t pulp.Tag) any {
	return tag{contentOf(pulp.KindTag, t.ID, t.Labels, t.Stamps), t.Name, pulp.Href(pulp.ManifestCollection, t.ManifestID)}
}

// showBlobs returns the JSON forms of blobs.
func (a *API) showBlobs(req *request, all []pulp.Blob) ([]any, error) {
	ids := make([]string, len(all))
	for i, b := range all {
		ids[i] = b.ID
	}
	artifacts, err := a.artifactsOf(req, "artifact", ids)
	if err != nil {
		return nil, err
	}
	shown := make([]any, len(all))
	for i, b := range all {
		shown[i] = blob{contentOf(pulp.KindBlob, b.ID, b.Labels, b.Stamps), artifacts[b.ID], string(b.Digest)}
	}
	return shown, nil
}

func showSignature(g pulp.Signature, c verify.Check) any {
	return signature{
		contentObject: contentOf(pulp.KindSignature, g.ID, g.Labels, g.Stamps),
		Name:          g.Name,
		Digest:        string(g.Digest),
		Type:          "atomic",
		KeyID:         g.KeyID,
		Fingerprint:   g.Fingerprint,
		Timestamp:     g.SignedAt,
		Creator:       g.Creator,
		Manifest:      pulp.Href(pulp.ManifestCollection, g.ManifestID),
		Reference:     g.Reference,
		Verified:      c.Verified,
		Services:      serviceHrefs(c.Services),
	}
}

// showSignatures returns the JSON forms of signatures. It verifies signatures by keys of signing services if the
// result is shown.
func (a *API) showSignatures(req *request, all []pulp.Signature) ([]any, error) {
	began := time.Now()
	ctx, cancel := verify.WithTimeoutAfter(req.Context(), req.verifying)
	defer cancel()
	defer func() { req.verifying += time.Since(began) }()
	var keys verify.Keys
	var known []string
	if req.selected.HasAny("verified", "signing_services") {
		var err error
		if keys, err = verify.ServiceKeys(ctx, a.Store); err != nil {
			return nil, err
		}
		for _, g := range all {
			if keys.Has(g.KeyID) {
				known = append(known, g.ID)
			}
		}
	}
	contents, err := a.Store.Signatures.SignatureContents(ctx, known)
	if err != nil {
		return nil, err
	}
	shows, err := a.showsServices(req)
	if err != nil {
		return nil, err
	}
	shown, now := make([]any, len(all)), time.Now()
	for i, g := range all {
		var check verify.Check
		if raw, ok := contents[g.ID]; ok {
			if check, err = keys.Check(ctx, raw, now); err != nil {
				return nil, err
			}
			check.Services = slices.DeleteFunc(slices.Clone(check.Services), func(s pulp.SigningService) bool { return !shows(s.ID) })
		}
		shown[i] = showSignature(g, check)
	}
	return shown, nil
}

func showManifest(m list.ListedManifest, parts list.ManifestParts, nature list.Nature) any {
	return manifest{
		contentObject: contentOf(pulp.KindManifest, m.ID, m.UnitLabels, m.Stamps),
		Digest:        string(m.Digest),
		SchemaVersion: m.SchemaVersion,
		MediaType:     m.MediaType,
		Listed:        hrefs(pulp.ManifestCollection, parts.Children),
		Config:        hrefOrNil(pulp.BlobCollection, parts.Config),
		Blobs:         hrefs(pulp.BlobCollection, parts.Layers),
		Annotations:   m.RawAnnotations,
		ImageLabels:   m.RawLabels,
		Bootable:      nature.Bootable,
		Flatpak:       nature.Flatpak,
		Type:          m.Type,
		Architecture:  m.Architecture,
		OS:            m.OS,
		Size:          m.ImageSize,
	}
}

// showManifests returns the JSON forms of manifests. It looks up the parts of all of them together.
func (a *API) showManifests(req *request, all []list.ListedManifest) ([]any, error) {
	ids := make([]string, len(all))
	for i, m := range all {
		ids[i] = m.ID
	}
	viewer, err := a.viewer(req)
	if err != nil {
		return nil, err
	}
	blobs, children := req.selected.HasAny("config_blob", "blobs"), req.selected.Has("listed_manifests")
	parts, err := a.Store.Lists.ManifestParts(req.Context(), ids, viewer, blobs, children)
	if err != nil {
		return nil, err
	}
	var natures map[string]list.Nature
	if req.selected.HasAny("is_bootable", "is_flatpak") {
		if natures, err = a.Store.Lists.ManifestNatures(req.Context(), ids, viewer); err != nil {
			return nil, err
		}
	}
	shown := make([]any, len(all))
	for i, m := range all {
		shown[i] = showManifest(m, parts[m.ID], natures[m.ID])
	}
	return shown, nil
}

// contentFilters are the filters of content of every kind, among them those by the versions that contain, added or
// removed a unit.
func contentFilters(own ...filters) filters {
	return mergeFilters(append(own, identityFilters(), labelFilters(), filters{
		"orphaned_for":               orphanedFor,
		"added_between":              betweenVersions(true),
		"removed_between":            betweenVersions(false),
		"repository_version":         inVersion(list.Present),
		"repository_version_added":   inVersion(list.Added),
		"repository_version_removed": inVersion(list.Removed),
	})...)
}

// orphanedFor filters by content that is in no repository version, and that nothing has used for a number of minutes. -1
// stands for the default of orphan cleanups.
var orphanedFor = filter{openapi.Number(), func(_ *API, _ *request, name string, values []string) (list.Filter, error) {
	text := query.Last(values)
	if text == "" {
		return nil, nil
	}
	minutes, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || math.IsNaN(minutes) {
		return nil, fault.Field(name, "Enter a number.")
	}
	if minutes < 0 {
		minutes = orphanAge
	}
	since := float64(time.Now().UnixMicro()) - minutes*float64(time.Minute.Microseconds())
	return list.Orphaned(int64(max(since, 0))), nil
}}

// inVersion filters by the relation to one version.
func inVersion(m list.Membership) filter {
	return filter{openapi.Text(), func(a *API, req *request, _ string, values []string) (list.Filter, error) {
		text := query.Last(values)
		if text == "" {
			return nil, nil
		}
		v, err := a.findVersion(req, text)
		return list.InVersion(v.RepositoryID, v.Number, m), err
	}}
}

// betweenVersions filters by content of only one of two versions: of the second for added, of the first otherwise.
func betweenVersions(added bool) filter {
	return filter{openapi.List(openapi.Text()), func(a *API, req *request, name string, values []string) (list.Filter, error) {
		text := query.Last(values)
		if text == "" {
			return nil, nil
		}
		from, to, err := cutRange(name, text)
		if err != nil {
			return nil, err
		}
		if !added {
			from, to = to, from
		}
		without, err := a.findVersion(req, from)
		if err != nil {
			return nil, err
		}
		with, err := a.findVersion(req, to)
		return list.All(
			list.InVersion(with.RepositoryID, with.Number, list.Present),
			list.Not(list.InVersion(without.RepositoryID, without.Number, list.Present)),
		), err
	}}
}

func (a *API) tags() resource[pulp.Tag] {
	return resource[pulp.Tag]{
		model: "Tag", form: tag{}, list: list.TagList, within: a.visible, show: showEach(showTag), orderings: []string{"name", "pulp_type"},
		filters: contentFilters(exactFilters("name"), filters{"media_type": oneOf("media_type"), "digest": oneOf("digest")}),
	}
}

func (a *API) manifests() resource[list.ListedManifest] {
	return resource[list.ListedManifest]{
		model: "Manifest", form: manifest{}, list: list.ManifestList, within: a.visible, show: a.showManifests,
		orderings: []string{
			"digest", "schema_version", "media_type", "is_bootable", "is_flatpak", "type", "architecture", "os",
			"compressed_image_size", "pulp_type",
		},
		filters: contentFilters(exactFilters("digest"), filters{
			"media_type": oneOf("media_type"), "is_bootable": is("is_bootable"), "is_flatpak": is("is_flatpak"),
		}),
	}
}

func (a *API) blobs() resource[pulp.Blob] {
	return resource[pulp.Blob]{
		model: "Blob", form: blob{}, list: list.BlobList, within: a.visible, show: a.showBlobs, orderings: []string{"digest", "pulp_type"},
		filters: contentFilters(exactFilters("digest")),
	}
}

func (a *API) signatures() resource[pulp.Signature] {
	return resource[pulp.Signature]{
		model: "ManifestSignature", form: signature{}, list: list.SignatureList, within: a.visible, show: a.showSignatures,
		orderings: []string{"name", "digest", "key_id", "fingerprint", "timestamp", "creator", "pulp_type"},
		filters:   contentFilters(nameFilters(), exactFilters("digest"), exactFilters("key_id"), filters{"manifest": oneOf("manifest")}),
	}
}

func (a *API) contentRoutes() []route {
	return slices.Concat(
		a.allContentRoutes(),
		contentKind(a, pulp.TagCollection, "container_tag_href", a.tags()),
		contentKind(a, pulp.ManifestCollection, "container_manifest_href", a.manifests()),
		contentKind(a, pulp.BlobCollection, "container_blob_href", a.blobs()),
		contentKind(a, pulp.SignatureCollection, "container_manifest_signature_href", a.signatures()),
	)
}

// labelable returns the unit that the path names if the caller may change its labels. The repositories that hold the unit
// share its labels, so that needs a permission on the content of all of them (compatibility.md#content-labels).
func labelable[T any](a *API, r resource[T], req *request) (T, error) {
	v, err := findByPath(a, r, req)
	if err != nil {
		return v, err
	}
	return v, a.require(req, access.Change, access.OfContent(), "")
}

// contentKind returns the routes of one kind of content.
func contentKind[T any](a *API, collection, href string, r resource[T]) []route {
	return append([]route{
		{path: collection, methods: get(listOf(a, r))},
		{path: collection + ":id/", href: href, methods: get(readOf(a, r))},
	}, labelRoutes(a, collection, func(req *request) (T, error) { return labelable(a, r, req) })...)
}
