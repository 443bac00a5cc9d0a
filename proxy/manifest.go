package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/negotiate"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/storage"
)

// maxTagParams is how many tags one PUT by digest may name.
const maxTagParams = 100

// getManifest answers with a manifest's exact bytes.
func (c *call) getManifest() error {
	m, err := c.findManifest()
	if err != nil {
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
		if m, err = c.otherManifest(m); err != nil {
			return err
		}
	}
	h := c.w.Header()
	h.Set("Docker-Content-Digest", string(m.Digest))
	h.Set("Etag", `"`+string(m.Digest)+`"`)
	if unchanged(c.r.Header, m.Digest) {
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	c.write(http.StatusOK, m.MediaType, m.Payload)
	return nil
}

// findManifest returns what the request's name and reference stand for.
func (c *call) findManifest() (pulp.Manifest, error) {
	t, err := c.readable()
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

// adopt takes what was not found from the upstream, where pulls do that, and says whether it may be here now. The upstream is only asked for those who may read what
// comes of it, and for what the latest version can show. A caller to whom private repositories look absent adopts only under absent names.
func (c *call) adopt(why error) (bool, error) {
	f, ok := errors.AsType[*failure](why)
	if c.Adopt == nil || !ok || f.status != http.StatusNotFound && f.status != http.StatusUnauthorized || !validReference(c.ref) {
		return false, nil
	}
	t, err := c.lookUp(c.name)
	absent := fault.Is(err, fault.NotFound)
	if absent {
		t = record.Target{Distribution: pulp.Distribution{Private: !c.AdoptPublic}}
	} else if err != nil {
		return false, err
	}
	if t.Distribution.Pinned != nil || !c.mayPull(c.name, t) {
		return false, nil
	}
	name := c.name
	if t.Served() {
		name = t.Repository.Name
	}
	blind := absent && !c.mayPull(c.name, privateTarget)
	here, err := c.Adopt(c.r.Context(), c.who.name(), name, c.ref, blind)
	return here || blind, err // another pull may have adopted it meanwhile
}

// validReference says whether a reference is a tag or a digest that is stored.
func validReference(ref string) bool { return pulp.ValidTag(ref) || validDigest(digest.Digest(ref)) }

// otherManifest answers for a tag whose manifest the Accept header excludes. An upstream registry decides what such a client gets, as some give it the image
// for a default platform out of a list; the answer must be a manifest that the name serves here. Without an upstream, or where it gives nothing, the error says
// that the Accept header is the cause.
func (c *call) otherManifest(m pulp.Manifest) (pulp.Manifest, error) {
	notAccepted := newError(http.StatusNotFound, "MANIFEST_UNKNOWN",
		fmt.Sprintf("The manifest has the media type %s, which the request's Accept header does not include.", m.MediaType),
		map[string]string{"reference": c.ref})
	if c.manifests == nil {
		return m, notAccepted
	}
	t, err := c.readable()
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

// putManifest takes a manifest, under a tag or a digest, or under a digest and tags (contract 3.3).
func (c *call) putManifest() error {
	if !c.may(auth.Push) {
		return c.refuse()
	}
	tags, dgst, err := c.putReference()
	if err != nil {
		return err
	}
	payload, err := c.readAll(pulp.MaxManifestSize, newError(http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", "A manifest may have 4 MiB.", nil))
	if err != nil {
		return err
	}
	if actual := dgst.Algorithm().FromBytes(payload); len(tags) == 0 || strings.Contains(c.ref, ":") {
		if actual != dgst {
			return digestInvalid(string(dgst))
		}
	} else {
		dgst = actual
	}
	m, err := pulp.ParseManifest(payload, c.r.Header.Get("Content-Type"))
	if err != nil {
		if f := asFailure(err); f.status == http.StatusBadRequest {
			return newError(http.StatusBadRequest, "MANIFEST_INVALID", f.message, map[string]string{"digest": string(dgst)})
		}
		return err
	}
	m.Digest = dgst
	t, err := c.manifestTarget(m)
	if err != nil {
		return err
	}
	if err := c.storeManifest(t, m, tags); err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Location", "/v2/"+c.name+"/manifests/"+string(dgst))
	h.Set("Docker-Content-Digest", string(dgst))
	h.Set("Etag", `"`+string(dgst)+`"`)
	if m.Subject != "" {
		h.Set("OCI-Subject", string(m.Subject))
	}
	if strings.Contains(c.ref, ":") {
		for _, tag := range tags {
			h.Add("OCI-Tag", tag)
		}
	}
	c.empty(http.StatusCreated)
	return nil
}

func tagInvalid(tag string) error {
	return newError(http.StatusBadRequest, "TAG_INVALID", "The tag is not well-formed.", map[string]string{"tag": tag})
}

// putReference returns the tags under which a PUT puts a manifest, and the digest that it states; for a PUT by tag the digest only
// has the algorithm to use.
func (c *call) putReference() (tags []string, dgst digest.Digest, err error) {
	if !strings.Contains(c.ref, ":") {
		if !takenTag(c.ref) {
			return nil, "", tagInvalid(c.ref)
		}
		return []string{c.ref}, digest.Canonical.FromString(""), nil
	}
	dgst = digest.Digest(c.ref)
	if !validDigest(dgst) {
		return nil, "", digestInvalid(c.ref)
	}
	for _, tag := range c.r.URL.Query()["tag"] {
		if !takenTag(tag) {
			return nil, "", tagInvalid(tag)
		}
		if slices.Contains(tags, tag) {
			continue
		}
		if len(tags) == maxTagParams {
			return nil, "", newError(http.StatusBadRequest, "TAG_INVALID", fmt.Sprintf("One request may name %d tags.", maxTagParams), nil)
		}
		tags = append(tags, tag)
	}
	return tags, dgst, nil
}

// takenTag says whether a tag may be pushed: it is well-formed (contract 3.3), no misspelled companion of cosign's (D23), and none of our own upstream.
func takenTag(tag string) bool {
	return pulp.ValidTag(tag) && !pulp.MalformedCompanionTag(tag) && !pulp.IsPinTag(tag)
}

// manifestTarget returns where a manifest goes. A list may come to a name that is not there yet; an image cannot: its blobs come before it.
func (c *call) manifestTarget(m pulp.Manifest) (record.Target, error) {
	if pulp.IsList(m.MediaType) {
		return c.pushTarget()
	}
	return c.writable(auth.Push)
}

// storeManifest stores a parsed manifest: upstream first, where there is one, by digest; then here.
func (c *call) storeManifest(t record.Target, m pulp.Manifest, tags []string) error {
	demanded := condition(c.r.Header)
	if err := c.seeUpstream(t, tags, demanded); err != nil {
		return err
	}
	if namesEmptyLayer(m) {
		if err := c.supplyEmptyLayer(t); err != nil {
			return err
		}
	}
	if err := c.readConfig(t, &m); err != nil {
		return err
	}
	if c.manifests != nil {
		if err := c.putUpstream(t, m); err != nil {
			return err
		}
	}
	put := content.PutManifest{RepositoryID: t.Repository.ID, Manifest: m, Tags: tags, RequireChildren: c.RequireIndexChildren, When: demanded}
	err := c.sealed(func(ctx context.Context) error {
		_, err := c.Store.Content.PutManifest(ctx, put)
		return err
	})
	c.audit("push manifest", err, slog.String("digest", string(m.Digest)), slog.Any("tags", tags))
	return err
}

// seeUpstream sees that tags of which something is demanded are not pushed to the upstream by somebody else as what it is not. What they stand for here the change itself looks at.
func (c *call) seeUpstream(t record.Target, tags []string, demanded func(digest.Digest) bool) error {
	if demanded == nil || c.Current == nil {
		return nil
	}
	for _, tag := range tags {
		shown, err := c.Current(c.r.Context(), c.who.name(), t.Repository, tag)
		if err != nil {
			return err
		}
		if shown != "" && !demanded(shown) {
			return &content.TagMoved{Name: tag, Current: shown}
		}
	}
	return nil
}

// maxConfig is how much of an image config is read for what it says of the image, in bytes.
const maxConfig = 4 << 20

// readConfig fills in what the image config says.
func (c *call) readConfig(t record.Target, m *pulp.Manifest) error {
	if m.Config == nil || m.Config.Size > maxConfig {
		return nil
	}
	b, err := c.Store.Serving.ServedBlob(c.r.Context(), t, m.Config.Digest)
	if fault.Is(err, fault.NotFound) {
		return nil // PutManifest says what is missing
	} else if err != nil {
		return err
	}
	if b.Absent { // the storage may have others' bytes of it
		if b.RemoteID == "" {
			return nil
		}
		b, err = c.bring(t, b, func(_ pulp.Blob, got ingest.Fetched) bool { return !got.Kept && got.Close() == nil })
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

// putUpstream writes a manifest through by digest, after seeing that what it names is upstream under the repository's name. Doing it twice does no harm.
func (c *call) putUpstream(t record.Target, m pulp.Manifest) error {
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
		if err := c.place(ctx, t, b); err != nil {
			return err
		}
	}
	err := c.manifests.PutManifest(ctx, t.Repository.UpstreamName(), string(m.Digest), m.MediaType, m.Payload)
	if fault.IsOutage(err, fault.Upstream) && hasURLs(m) && c.Storage.Ping(ctx) == nil {
		return errors.Join(errURLs, err)
	}
	return err
}

// errURLs is the answer for layers that an upstream does not take for where they lie. Distribution 3.1 answers 500 to those, again and again, so that whoever
// tries again later never ends; from an upstream that does answer, 500 to such a manifest counts as a refusal.
var errURLs = newError(http.StatusBadRequest, "UNSUPPORTED", "The upstream registry does not take layers that lie at other URLs, or not at these.", nil)

func hasURLs(m pulp.Manifest) bool {
	return slices.ContainsFunc(m.Layers, func(d pulp.Descriptor) bool { return len(d.URLs) > 0 })
}

// deleteManifest takes a tag, or a manifest with its tags and signatures, out of the repository, before it answers (D22).
func (c *call) deleteManifest() error {
	t, err := c.writable(auth.Delete)
	if err != nil {
		return err
	}
	demanded := condition(c.r.Header)
	if pulp.ValidTag(c.ref) {
		if err := c.seeUpstream(t, []string{c.ref}, demanded); err != nil {
			return err
		}
	}
	switch dgst := digest.Digest(c.ref); {
	case validDigest(dgst) && demanded != nil && !demanded(dgst):
		err = newError(http.StatusPreconditionFailed, "PRECONDITION_FAILED", "The manifest is not what the request demands.", map[string]string{"digest": c.ref})
	case validDigest(dgst):
		_, err = c.Store.Content.DeleteManifest(c.r.Context(), t.Repository.ID, dgst)
	case pulp.ValidTag(c.ref):
		_, err = c.Store.Content.DeleteTag(c.r.Context(), t.Repository.ID, c.ref, demanded)
	default:
		return newError(http.StatusBadRequest, "INVALID_REQUEST", "The reference is no tag and no digest.", nil)
	}
	c.audit("delete manifest", err, slog.String("reference", c.ref))
	if fault.Is(err, fault.NotFound) {
		return c.manifestUnknown()
	} else if err != nil {
		return err
	}
	c.empty(http.StatusAccepted)
	return nil
}
