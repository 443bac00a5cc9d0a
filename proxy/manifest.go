package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/negotiate"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/storage"
)

// maxTagParams is the limit of tag parameters in a PUT by digest.
const maxTagParams = 100

// getManifest handles GET and HEAD of a manifest.
func (c *call) getManifest() error {
	m, err := c.findManifest()
	if m, err = c.pullThrough(m, err); err != nil {
		here, adoptErr := c.adopt(err)
		if adoptErr != nil {
			return adoptErr
		}
		if !here {
			return err
		}
		if m, err = c.findManifest(); err != nil {
			return err
		}
	}
	if byTag := pulp.ValidTag(c.ref); byTag && !negotiate.Accepts(c.r.Header["Accept"], m.MediaType) {
		if m, err = c.negotiateUpstream(m); err != nil {
			return err
		}
	}
	h := c.w.Header()
	h.Set("Docker-Content-Digest", string(m.Digest))
	h.Set("Etag", `"`+string(m.Digest)+`"`)
	if notModified(c.r.Header, m.Digest) {
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	c.writeBody(http.StatusOK, m.MediaType, m.Payload)
	return nil
}

// findManifest returns the manifest of the request's name and reference.
func (c *call) findManifest() (pulp.Manifest, error) {
	t, err := c.readableTarget()
	if err != nil {
		return pulp.Manifest{}, err
	}
	if !validReference(c.ref) {
		return pulp.Manifest{}, c.manifestUnknown()
	}
	m, err := c.Store.Serving.ServedManifest(c.r.Context(), t, c.ref)
	if fault.Is(err, fault.NotFound) {
		return m, c.manifestUnknown()
	}
	return m, err
}

// adopt adopts the requested manifest from the upstream after findManifest failed with why. It reports whether the
// caller should look the manifest up again. It does nothing if adoption is off, if the name serves a pinned version,
// or if the caller could not read the adopted manifest. For a caller that cannot distinguish private names from
// absent ones it adopts only under absent names.
func (c *call) adopt(why error) (bool, error) {
	f, ok := errors.AsType[*failure](why)
	if c.Adopt == nil || !ok || f.status != http.StatusNotFound && f.status != http.StatusUnauthorized ||
		!validReference(c.ref) {
		return false, nil
	}
	t, insider, err := c.resolve(c.name)
	absent := fault.Is(err, fault.NotFound)
	switch {
	case absent && !insider && (!c.AdoptPublic || !c.mayPullPublic(c.name)):
		return false, nil
	case err != nil && !absent:
		return false, err
	case t.Distribution.Pinned != nil:
		return false, nil
	}
	name := c.name
	if t.Served() {
		name = t.Repository.Name
	}
	blind := absent && !insider
	here, err := c.Adopt(c.r.Context(), c.caller.name(), name, c.ref, blind)
	return here || blind, err // another pull may have adopted it concurrently
}

// validReference reports whether a reference is a tag or a supported digest.
func validReference(ref string) bool { return pulp.ValidTag(ref) || validDigest(digest.Digest(ref)) }

// negotiateUpstream returns another manifest for a tag whose manifest m does not match the Accept header. Some
// upstream registries select an image of a list then; the result must be a manifest that the name serves here.
// Without an upstream, or if the upstream has no such manifest, the failure names the Accept header as the cause.
func (c *call) negotiateUpstream(m pulp.Manifest) (pulp.Manifest, error) {
	notAccepted := newError(
		http.StatusNotFound,
		"MANIFEST_UNKNOWN",
		fmt.Sprintf(
			"The manifest has the media type %s, which the request's Accept header does not include.",
			m.MediaType,
		),
		map[string]string{"reference": c.ref},
	)
	if c.manifests == nil {
		return m, notAccepted
	}
	t, err := c.readableTarget()
	if err != nil {
		return m, err
	}
	dgst, err := c.manifests.Resolve(c.r.Context(), t.Repository.UpstreamName(), c.ref, c.r.Header["Accept"]...)
	if errors.Is(err, storage.ErrNotFound) {
		return m, notAccepted
	} else if err != nil {
		return m, err
	}
	other, err := c.Store.Serving.ServedManifest(c.r.Context(), t, string(dgst))
	if fault.Is(err, fault.NotFound) {
		return m, notAccepted
	}
	return other, err
}

// putManifest handles PUT of a manifest by tag or by digest, with optional tag parameters. See
// compatibility.md#manifests.
func (c *call) putManifest() error {
	if push, create, err := c.mayPush(); err != nil || !push && !create {
		return cmp.Or(err, c.unauthorized())
	}
	tags, m, err := c.readManifest()
	if err != nil {
		return err
	}
	t, err := c.manifestTarget(m)
	if err != nil {
		return err
	}
	if err := c.storeManifest(t, m, tags); err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Location", "/v2/"+c.name+"/manifests/"+string(m.Digest))
	h.Set("Docker-Content-Digest", string(m.Digest))
	h.Set("Etag", `"`+string(m.Digest)+`"`)
	if m.Subject != "" {
		h.Set("OCI-Subject", string(m.Subject))
	}
	if strings.Contains(c.ref, ":") {
		for _, tag := range tags {
			h.Add("OCI-Tag", tag)
		}
	}
	c.writeEmpty(http.StatusCreated)
	return nil
}

// readManifest reads and parses the body of a PUT. It returns the tags to set and the manifest with its digest, which it
// verifies if the request states one.
func (c *call) readManifest() (tags []string, m pulp.Manifest, err error) {
	tags, dgst, err := c.parsePutReference()
	if err != nil {
		return nil, m, err
	}
	payload, err := c.readAll(
		pulp.MaxManifestSize,
		newError(http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", "The manifest is larger than 4 MiB.", nil),
	)
	if err != nil {
		return nil, m, err
	}
	actual := dgst.Algorithm().FromBytes(payload)
	if byDigest := strings.Contains(c.ref, ":"); byDigest && actual != dgst {
		return nil, m, digestInvalid(string(dgst))
	}
	m, err = pulp.ParseManifest(payload, c.r.Header.Get("Content-Type"))
	if f := toFailure(err); err != nil && f.status == http.StatusBadRequest {
		detail := map[string]string{"digest": string(actual)}
		return nil, m, newError(http.StatusBadRequest, "MANIFEST_INVALID", f.message, detail)
	}
	m.Digest = actual
	return tags, m, err
}

func tagInvalid(tag string) error {
	return newError(http.StatusBadRequest, "TAG_INVALID", "The tag is not well-formed.", map[string]string{"tag": tag})
}

// parsePutReference returns the tags of a PUT and its digest. For a PUT by tag the digest determines only the
// algorithm.
func (c *call) parsePutReference() (tags []string, dgst digest.Digest, err error) {
	if !strings.Contains(c.ref, ":") {
		if !pulp.PushableTag(c.ref) {
			return nil, "", tagInvalid(c.ref)
		}
		return []string{c.ref}, digest.Canonical.FromString(""), nil
	}
	dgst = digest.Digest(c.ref)
	if !validDigest(dgst) {
		return nil, "", digestInvalid(c.ref)
	}
	for _, tag := range c.r.URL.Query()["tag"] {
		if !pulp.PushableTag(tag) {
			return nil, "", tagInvalid(tag)
		}
		if slices.Contains(tags, tag) {
			continue
		}
		if len(tags) == maxTagParams {
			return nil, "", newError(
				http.StatusBadRequest,
				"TAG_INVALID",
				fmt.Sprintf("A request can set at most %d tags.", maxTagParams),
				nil,
			)
		}
		tags = append(tags, tag)
	}
	return tags, dgst, nil
}

// manifestTarget returns the target of a push. A list can create the repository. An image cannot, since its blobs are
// pushed first.
func (c *call) manifestTarget(m pulp.Manifest) (record.Target, error) {
	if pulp.IsList(m.MediaType) {
		return c.pushTarget()
	}
	return c.writableTarget(access.Push)
}

// storeManifest stores a parsed manifest and its tags. If there is an upstream it stores the manifest there first, by
// digest.
func (c *call) storeManifest(t record.Target, m pulp.Manifest, tags []string) error {
	precondition := parsePrecondition(c.r.Header)
	if err := c.checkUpstreamPrecondition(t, tags, precondition); err != nil {
		c.audit("push manifest", err, slog.String("digest", string(m.Digest)), slog.Any("tags", tags))
		return err
	}
	if referencesEmptyLayer(m) {
		if err := c.addEmptyLayer(t); err != nil {
			return err
		}
	}
	if err := c.readConfig(t, &m); err != nil {
		return err
	}
	if c.manifests != nil {
		if err := c.putManifestUpstream(t, m); err != nil {
			return err
		}
	}
	put := content.PutManifest{
		RepositoryID:    t.Repository.ID,
		Manifest:        m,
		Tags:            tags,
		RequireChildren: c.RequireIndexChildren,
		When:            precondition,
	}
	err := c.withSignatures(func(ctx context.Context) error {
		_, err := c.Store.Content.PutManifest(ctx, put)
		return err
	})
	c.audit("push manifest", err, slog.String("digest", string(m.Digest)), slog.Any("tags", tags))
	return err
}

// checkUpstreamPrecondition verifies If-Match and If-None-Match against the tags that other clients of the upstream have
// pushed there. ForeignTag says which tags it skips. The database transaction of the change verifies the precondition
// against the tags of this server in every case; both must hold.
func (c *call) checkUpstreamPrecondition(t record.Target, tags []string, precondition func(digest.Digest) bool) error {
	if precondition == nil || c.ForeignTag == nil {
		return nil
	}
	for _, tag := range tags {
		foreign, err := c.ForeignTag(c.r.Context(), c.caller.name(), t.Repository, tag)
		if err != nil {
			return err
		}
		if foreign != "" && !precondition(foreign) {
			return &content.TagMoved{Name: tag, Current: foreign}
		}
	}
	return nil
}

// maxConfig is the size limit in bytes of an image config that readConfig reads.
const maxConfig = 4 << 20

// readConfig applies the image config to the manifest. It ignores a missing config: the store reports missing blobs.
func (c *call) readConfig(t record.Target, m *pulp.Manifest) error {
	if m.Config == nil || m.Config.Size > maxConfig {
		return nil
	}
	b, err := c.Store.Serving.ServedBlob(c.r.Context(), t, m.Config.Digest)
	if fault.Is(err, fault.NotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if b.Absent { // do not read the storage, which may have the blob of another repository
		if b.RemoteID == "" {
			return nil
		}
		b, err = c.fetchAbsent(
			t,
			b,
			func(_ pulp.Blob, got ingest.Fetched) bool { return !got.Kept && got.Close() == nil },
		)
		if f, ok := errors.AsType[*failure](err); ok && f.status == http.StatusNotFound {
			return nil
		}
		if err != nil || b.Absent {
			return err
		}
	}
	if text, ok := c.recent.get(b.Digest); ok {
		m.ApplyConfig(text)
		return nil
	}
	content, err := c.open(b)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	text, err := io.ReadAll(io.LimitReader(content, maxConfig))
	if err != nil {
		return err
	}
	m.ApplyConfig(text)
	return nil
}

// putManifestUpstream stores a manifest in the upstream by digest, after it mounted all referenced blobs into the
// upstream repository. It is idempotent.
func (c *call) putManifestUpstream(t record.Target, m pulp.Manifest) error {
	ctx := c.r.Context()
	parts := m.Layers
	if m.Config != nil {
		parts = append([]pulp.Descriptor{*m.Config}, parts...)
	}
	for _, d := range parts {
		b, err := c.Store.Serving.ServedBlob(ctx, t, d.Digest)
		if fault.Is(err, fault.NotFound) {
			if len(d.URLs) > 0 || pulp.IsForeign(d.MediaType) {
				continue
			}
			return &content.MissingBlobs{Digests: []digest.Digest{d.Digest}}
		} else if err != nil {
			return err
		}
		if err := c.placeUpstream(ctx, t, b); err != nil {
			return err
		}
	}
	err := c.manifests.PutManifest(ctx, t.Repository.UpstreamName(), string(m.Digest), m.MediaType, m.Payload)
	if fault.IsOutage(err, fault.Upstream) && hasURLs(m) && c.Storage.Ping(ctx) == nil {
		return errors.Join(errForeignURLs, err)
	}
	return err
}

// errForeignURLs is the failure for a manifest whose foreign layers the upstream rejects. Distribution 3.1 always
// responds with 500 to those. If such an upstream responds to other requests, the 500 is a rejection, so that clients
// do not retry.
var errForeignURLs = newError(
	http.StatusBadRequest,
	"UNSUPPORTED",
	"The upstream registry does not accept layers with these URLs.",
	nil,
)

func hasURLs(m pulp.Manifest) bool {
	return slices.ContainsFunc(m.Layers, func(d pulp.Descriptor) bool { return len(d.URLs) > 0 })
}

// deleteManifest handles DELETE of a tag, or of a manifest with its tags and signatures. See
// compatibility.md#deleting-manifests.
func (c *call) deleteManifest() error {
	t, err := c.writableTarget(access.Remove)
	if err != nil {
		return err
	}
	precondition := parsePrecondition(c.r.Header)
	if pulp.ValidTag(c.ref) {
		if err := c.checkUpstreamPrecondition(t, []string{c.ref}, precondition); err != nil {
			c.audit("delete manifest", err, slog.String("reference", c.ref))
			return err
		}
	}
	switch dgst := digest.Digest(c.ref); {
	case validDigest(dgst) && precondition != nil && !precondition(dgst):
		err = newError(
			http.StatusPreconditionFailed,
			"PRECONDITION_FAILED",
			"The manifest does not meet the precondition of the request.",
			map[string]string{"digest": c.ref},
		)
	case validDigest(dgst):
		_, err = c.Store.Content.DeleteManifest(c.r.Context(), t.Repository.ID, dgst)
	case pulp.ValidTag(c.ref):
		_, err = c.Store.Content.DeleteTag(c.r.Context(), t.Repository.ID, c.ref, precondition)
	default:
		return newError(http.StatusBadRequest, "INVALID_REQUEST", "The reference is neither a tag nor a digest.", nil)
	}
	c.audit("delete manifest", err, slog.String("reference", c.ref))
	if fault.Is(err, fault.NotFound) {
		return c.manifestUnknown()
	} else if err != nil {
		return err
	}
	c.writeEmpty(http.StatusAccepted)
	return nil
}
