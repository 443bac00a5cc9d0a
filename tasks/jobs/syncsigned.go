package jobs

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
)

// heldReferrers limits the referrers of an image in the repository that are read, in bytes of a response of the
// referrers API.
const heldReferrers = 1 << 20

// signed reports whether an image or a list has a signature: in the remote's signature extension or lookaside
// store (images only), under cosign's companion tag, or as a referrer. It adds referrers that are signatures to
// img.
func (o *oneSync) signed(ctx context.Context, img *image) (bool, error) {
	d, isList := img.manifest.Digest, pulp.IsList(img.manifest.MediaType)
	if len(img.signatures) > 0 && !isList {
		return true, nil
	}
	if d.Algorithm() == digest.SHA256 && o.tags["sha256-"+d.Encoded()+".sig"] {
		return true, nil
	}
	found, answered, err := o.remoteReferrers(ctx, d)
	if err != nil {
		return false, err
	}
	for _, r := range found {
		if r.Signs() {
			img.referrers = append(img.referrers, r.Digest)
		}
	}
	if len(img.referrers) > 0 {
		return true, nil
	}
	return o.wasSigned(ctx, img, answered)
}

// remoteReferrers returns the referrers of a digest at the remote, from the referrers API or the tag that
// replaces it. answered is false if the remote has neither.
func (o *oneSync) remoteReferrers(ctx context.Context, d digest.Digest) (found []mirror.Referrer, answered bool, err error) {
	found, answered, err = o.registry.Referrers(ctx, d)
	tag := string(d.Algorithm()) + "-" + d.Encoded()
	if err != nil || answered || !o.tags[tag] {
		return found, answered, err
	}
	m, err := o.registry.Manifest(ctx, tag)
	if fault.Is(err, fault.NotFound) {
		return nil, false, nil
	} else if err != nil {
		return nil, false, err
	}
	found, err = mirror.ReferrersIn(m)
	return found, err == nil, err
}

// wasSigned reports whether signatures in the repository are enough for an image that it has. This applies only
// to mirrors, and only if the remote does not answer requests for signatures: an outage must not remove images.
// answered is true if the remote has listed the referrers.
func (o *oneSync) wasSigned(ctx context.Context, img *image, answered bool) (bool, error) {
	if !o.args.Mirror || !img.held || o.mayShrink() {
		return false, nil
	}
	if !img.answered && !pulp.IsList(img.manifest.MediaType) {
		if held, err := o.Store.Content.HoldsSignature(ctx, o.repo.ID, img.manifest.Digest); held || err != nil {
			return held, err
		}
	}
	if answered {
		return false, nil
	}
	found, _, err := o.Store.Serving.ServedReferrers(ctx, record.Target{Repository: o.repo}, img.manifest.Digest, "", "", heldReferrers)
	for _, r := range found {
		var annotations map[string]string
		if len(r.Annotations) == 0 { // no annotations
			r.Annotations = json.RawMessage("{}")
		}
		if err := json.Unmarshal(r.Annotations, &annotations); err != nil {
			return false, fmt.Errorf("annotations of %s: %w", r.Digest, err)
		}
		if mirror.IsSignature(r.ArtifactType, annotations) {
			img.referrers = append(img.referrers, r.Digest)
		}
	}
	return len(img.referrers) > 0, err
}

// takeReferrers includes manifests that are signatures of others, without tags. Those that the remote does not
// serve are skipped.
func (o *oneSync) takeReferrers(ctx context.Context, referrers []digest.Digest) error {
	for _, d := range referrers {
		img, err := o.inspect(ctx, d, nil, 0, true)
		switch {
		case fault.Is(err, fault.NotFound):
			o.skips.add(unreadableReferrers, string(d), err)
			continue
		case err != nil:
			return err
		case img.manifest.Digest == "":
			o.skips.add(unsupported, string(d), nil)
			continue
		}
		if err := o.fetch(ctx, img); err != nil {
			return err
		}
		o.mu.Lock()
		o.wanted.Manifests = append(o.wanted.Manifests, d)
		o.mu.Unlock()
	}
	return nil
}
