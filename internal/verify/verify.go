// Package verify tells who signed what a repository holds, and what a client's policy makes of it: for the REST API and the command line.
//
// Whether this server vouches for a signature is signing.Verify's to say, what a client would do is signing/policy's.
package verify

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/policy"
)

// maxImages is how many manifests of one list are looked at.
const maxImages = 1000

// maxContent is how many bytes of signatures are looked at for one tag.
const maxContent = 64 << 20

// Timeout is how long one request may have signatures and keys verified. The sizes of a policy, of a list and of its signatures multiply.
const Timeout = 10 * time.Second

var errTooLong = fault.New(fault.Unavailable, "Verifying takes more than %v. Ask about a single image, with fewer keys and requirements, or try again later.", Timeout)

// Bounded returns a context that ends after Timeout, with a cause that says so.
func Bounded(ctx context.Context) (context.Context, context.CancelFunc) { return BoundedAfter(ctx, 0) }

// BoundedAfter is Bounded for a request that has spent some of its time on verifying already.
func BoundedAfter(ctx context.Context, spent time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, Timeout-spent, errTooLong)
}

// Keys are those that signatures are verified with: the signing services' and others.
type Keys struct {
	services []service
	others   []signing.PublicKey
}

type service struct {
	pulp.SigningService
	key signing.PublicKey
}

// ServiceKeys returns the keys of all signing services. A service whose key cannot be read verifies nothing.
func ServiceKeys(ctx context.Context, s *store.Store) (Keys, error) {
	all, err := s.SigningServices(ctx)
	if err != nil {
		return Keys{}, err
	}
	var keys Keys
	for _, v := range all {
		if key, err := signing.ParsePublicKey(v.PublicKey); err == nil {
			keys.services = append(keys.services, service{v, key})
		}
	}
	return keys, nil
}

// With returns the keys with others beside them.
func (k Keys) With(others []signing.PublicKey) Keys { return Keys{k.services, others} }

// Has says whether any key has this id.
func (k Keys) Has(keyID string) bool {
	for _, s := range k.services {
		if s.key.Has(keyID) {
			return true
		}
	}
	for _, key := range k.others {
		if key.Has(keyID) {
			return true
		}
	}
	return false
}

// Check is what is known of one signature.
type Check struct {
	Verified bool
	Key      string                // fingerprint of the primary key that it verifies with; empty when none
	Services []pulp.SigningService // whose key that is, by name
	Reason   string                // why it is not verified
}

// Check verifies a signature with every key that may have made it, as of a time. It fails only when ctx ends.
func (k Keys) Check(ctx context.Context, raw []byte, at time.Time) (Check, error) {
	c := Check{Reason: signing.ErrUnknownKey.Msg}
	said, err := signing.Parse(raw)
	if err != nil {
		c.Reason = err.Error()
		return c, nil
	}
	try := func(key signing.PublicKey) bool {
		if !key.Has(said.KeyID) {
			return false
		}
		verified, err := signing.VerifyForeign(ctx, raw, key, at)
		if err == nil {
			c.Verified, c.Key, c.Reason = true, verified.Fingerprint(), ""
		} else if !c.Verified {
			c.Reason = err.Error()
		}
		return err == nil
	}
	for _, s := range k.services {
		if try(s.key) {
			c.Services = append(c.Services, s.SigningService)
		}
	}
	for i := 0; i < len(k.others) && !c.Verified; i++ {
		try(k.others[i])
	}
	if ctx.Err() != nil {
		return Check{}, context.Cause(ctx)
	}
	return c, nil
}

// Signature is one of a manifest.
type Signature struct {
	pulp.Signature
	Check
}

// Manifest is what a tag stands for, or what a list names that the repository holds.
type Manifest struct {
	pulp.Manifest
	Signatures []Signature

	sha256 digest.Digest // of the payload
}

// Report tells who signed what a tag stands for. The first manifest is that, the others are those of a list, without lists in it.
type Report struct{ Manifests []Manifest }

// Tag reports about a tag, or a digest, in what a target serves. NotFound when there is none.
func Tag(ctx context.Context, s *store.Store, t store.Target, reference string, keys Keys, at time.Time) (Report, error) {
	root, err := s.ServedManifest(ctx, t, reference)
	if err != nil {
		return Report{}, err
	}
	var r Report
	size := 0 // of the signatures, in bytes
	queue, seen := []pulp.Manifest{root}, map[string]bool{root.ID: true}
	for len(queue) > 0 {
		if len(seen) > maxImages { // a verdict is about all of it
			return Report{}, fault.New(fault.TooLarge, "The list has more than %d manifests, which are not looked at.", maxImages)
		}
		m := queue[0]
		queue = queue[1:]
		if len(r.Manifests) == 0 || !pulp.IsList(m.MediaType) {
			looked, err := look(ctx, s, t, m, keys, at)
			if err != nil {
				return Report{}, err
			}
			for _, g := range looked.Signatures {
				size += len(g.Content)
			}
			if size > maxContent {
				return Report{}, fault.New(fault.TooLarge, "The list's images have more than %d MiB of signatures, which are not looked at.", maxContent>>20)
			}
			r.Manifests = append(r.Manifests, looked)
		}
		if !pulp.IsList(m.MediaType) {
			continue
		}
		children, err := s.ServedChildren(ctx, t, m.ID, maxImages+1)
		if err != nil {
			return Report{}, err
		}
		for _, child := range children {
			if !seen[child.ID] {
				seen[child.ID] = true
				queue = append(queue, child)
			}
		}
	}
	return r, nil
}

func look(ctx context.Context, s *store.Store, t store.Target, m pulp.Manifest, keys Keys, at time.Time) (Manifest, error) {
	kept, err := s.ServedSignatures(ctx, t, m.ID)
	if err != nil {
		return Manifest{}, err
	}
	looked := Manifest{Manifest: m, sha256: m.Digest}
	if m.Digest.Algorithm() != digest.SHA256 {
		payload, err := s.Payload(ctx, m.ID) // that of a list's child is not kept
		if err != nil {
			return Manifest{}, err
		}
		looked.sha256 = digest.FromBytes(payload)
	}
	for _, g := range kept {
		c, err := keys.Check(ctx, g.Content, at)
		if err != nil {
			return Manifest{}, err
		}
		looked.Signatures = append(looked.Signatures, Signature{g, c})
	}
	return looked, nil
}

// Pulled are the manifests that clients ask for signatures of: of a list the images, as they pull one of these.
func (r Report) Pulled() []Manifest {
	if len(r.Manifests) > 1 && pulp.IsList(r.Manifests[0].MediaType) {
		return r.Manifests[1:]
	}
	return r.Manifests[:1]
}

// Signed says whether each image that clients pull has a verified signature for exactly this reference.
func (r Report) Signed(reference string) bool {
	for _, m := range r.Pulled() {
		signed := false
		for _, g := range m.Signatures {
			signed = signed || g.Verified && g.Reference == reference
		}
		if !signed {
			return false
		}
	}
	return true
}

// Verdict is what a policy makes of a reference: of each manifest in the report, in its order.
type Verdict struct {
	Accepted  bool // every image that clients pull is; a list's own verdict is for those who copy all of it
	Reference string
	Manifests []policy.Verdict
}

// Judge says what clients with a policy would do with a reference to the report's tag. Invalid when clients cannot pull that.
func (r Report) Judge(ctx context.Context, p *policy.Policy, reference string, at time.Time) (Verdict, error) {
	v := Verdict{Accepted: true, Reference: reference}
	first := len(r.Manifests) - len(r.Pulled())
	for i, m := range r.Manifests {
		if ctx.Err() != nil {
			return Verdict{}, context.Cause(ctx)
		}
		image := policy.Image{Reference: reference, Manifest: m.Payload, Digest: m.sha256, Listed: i > 0}
		for _, g := range m.Signatures {
			image.Signatures = append(image.Signatures, g.Content)
		}
		judged, err := p.Evaluate(ctx, image, at)
		if err != nil {
			return Verdict{}, err
		}
		v.Reference = judged.Reference
		v.Accepted = v.Accepted && (i < first || judged.Accepted)
		v.Manifests = append(v.Manifests, judged)
	}
	return v, nil
}
