package jobs

import (
	"context"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
)

// inspect reads a manifest, but not its blobs, and decides whether it is wanted. covered is true if it is
// wanted without a signature: because a signed list references it, or because it is a signature itself. Each
// manifest is inspected once for each value of covered.
func (o *oneSync) inspect(ctx context.Context, d digest.Digest, fetched *mirror.Manifest, depth int, covered bool) (*image, error) {
	key := string(d)
	if covered = covered || !o.args.SignedOnly; !covered {
		key += " if signed"
	}
	return o.manifests.do(ctx, key, func() (*image, error) {
		img := &image{}
		if err := o.read(ctx, img, d, fetched); err != nil {
			return nil, err
		}
		if img.manifest.Digest == "" { // a media type that cannot be stored
			return img, nil
		}
		if err := o.judge(ctx, img, depth, covered); err != nil {
			return nil, err
		}
		if o.held.Add(int64(len(img.manifest.Payload))); !img.wanted {
			o.release(img)
		} else if o.held.Load() > maxInspected {
			return nil, fault.New(fault.Unavailable, "The remote's lists have more than %d bytes of manifests; sync fewer tags at a time.", maxInspected)
		}
		return img, nil
	})
}

// judge decides whether a manifest is wanted, and inspects its children and signatures.
func (o *oneSync) judge(ctx context.Context, img *image, depth int, covered bool) error {
	img.wanted = true
	if err := o.readSignatures(ctx, img); err != nil {
		return err
	}
	if !covered {
		signed, err := o.signed(ctx, img)
		if err != nil {
			return err
		}
		if pulp.IsList(img.manifest.MediaType) {
			covered = signed // if the list is not signed, each of its images must be
		} else {
			img.wanted = signed
		}
	}
	if pulp.IsList(img.manifest.MediaType) {
		return o.inspectChildren(ctx, img, depth, covered)
	}
	return nil
}

// read reads a manifest from the repository or, if it does not have it, from the remote.
func (o *oneSync) read(ctx context.Context, img *image, d digest.Digest, fetched *mirror.Manifest) error {
	have, kept, err := o.Store.Content.HasManifest(ctx, o.repo.ID, d)
	if err != nil {
		return err
	}
	img.held = have == content.HaveVersion
	if have == content.HaveNothing {
		if fetched == nil {
			m, err := o.registry.Manifest(ctx, string(d))
			if err != nil {
				return err
			}
			fetched = &m
		}
		kept = pulp.Manifest{MediaType: fetched.MediaType, Payload: fetched.Payload}
	}
	m, err := pulp.ParseManifest(kept.Payload, kept.MediaType)
	if err != nil {
		return nil //nolint:nilerr // the caller reports the manifest, whose digest stays empty
	}
	m.Digest = d
	img.manifest = m
	return nil
}

// inspectChildren inspects the manifests that a list references. It skips those that neither the repository nor
// the remote has, as in a sparse copy. If one image is not wanted, the list is not wanted either. covered is
// true if its images need no signatures.
func (o *oneSync) inspectChildren(ctx context.Context, img *image, depth int, covered bool) error {
	if depth >= maxNesting {
		return fault.Wrap(fault.Invalid, mirror.ErrCorrupt, "The list %s nests more than %d deep.", img.manifest.Digest, maxNesting)
	}
	for _, c := range img.manifest.Children {
		child, err := o.inspect(ctx, c.Digest, nil, depth+1, covered)
		if fault.Is(err, fault.NotFound) {
			o.skips.add(absentImages, string(c.Digest), err)
			continue
		} else if err != nil {
			return err
		}
		if child.manifest.Digest == "" {
			o.skips.add(unsupported, string(c.Digest), nil)
		}
		img.children = append(img.children, child)
		img.referrers = append(img.referrers, child.referrers...)
		img.wanted = img.wanted && (child.wanted || child.manifest.Digest == "")
	}
	if !covered && len(img.children) == 0 {
		img.wanted = false // a list without images needs a signature of its own
	}
	return nil
}

// readSignatures reads a manifest's signatures from the remote. Rejected signatures are skipped and reported.
func (o *oneSync) readSignatures(ctx context.Context, img *image) error {
	if o.source == mirror.NoSignatures || img.manifest.Digest.Algorithm() != digest.SHA256 {
		return nil
	}
	found, err := o.registry.Signatures(ctx, o.source, img.manifest.Digest)
	if err != nil {
		return err
	}
	img.answered = found != nil
	for _, f := range found {
		g, err := o.Validator.Validate(ctx, img.manifest.Digest, f.Content)
		if fault.Is(err, fault.Invalid) {
			o.skips.add(rejectedSignatures, string(img.manifest.Digest), err)
			continue
		} else if err != nil {
			return err
		}
		if strings.HasPrefix(f.Name, string(img.manifest.Digest)+"@") {
			g.Name = f.Name
		}
		img.signatures = append(img.signatures, g)
	}
	return nil
}
