// Package verify reports the signatures of the images that a repository serves, and the decision of a client's policy
// about them. The REST API and the command line use it.
//
// signing.Verify decides whether a signature is valid for this server, and signing/policy how a client decides.
package verify

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/policy"
)

// Limits of one report.
const (
	maxManifests  = 1000     // of a list
	maxSignatures = 64 << 20 // bytes of signatures
)

// Timeout limits the time that one request may spend on verification. The sizes of a policy, of a list and of its
// signatures multiply.
const Timeout = 10 * time.Second

var errTimeout = fault.New(fault.Unavailable, "Verifying takes more than %v. "+
	"Ask about a single image, with fewer keys and requirements, or try again later.", Timeout)

// WithTimeout returns a context that ends after Timeout. Its cause is an error for the client.
func WithTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return WithTimeoutAfter(ctx, 0)
}

// WithTimeoutAfter is WithTimeout for a request that has already spent time on verification.
func WithTimeoutAfter(ctx context.Context, spent time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, Timeout-spent, errTimeout)
}

// Keys are the keys for verification: those of signing services, and others.
type Keys struct {
	services []service
	others   []signing.PublicKey
}

type service struct {
	pulp.SigningService
	key signing.PublicKey
}

// ServiceKeys returns the keys of all signing services. It omits services with a key that cannot be parsed.
func ServiceKeys(ctx context.Context, s *store.Store) (Keys, error) {
	all, err := s.Signatures.SigningServices(ctx)
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

// With returns the keys of the services in k, and others.
func (k Keys) With(others []signing.PublicKey) Keys { return Keys{k.services, others} }

// Has reports whether a key id belongs to any key.
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

// Check is the result of verifying one signature.
type Check struct {
	Verified bool
	Key      string                // fingerprint of the primary key that verifies it, or empty
	Services []pulp.SigningService // with that key, sorted by name
	Reason   string                // why it is not verified
}

// Check verifies a signature at a given time with each key that may have made it. It returns an error only when ctx
// ends.
func (k Keys) Check(ctx context.Context, raw []byte, at time.Time) (Check, error) {
	c := Check{Reason: signing.ErrUnknownKey.Msg}
	parsed, err := signing.Parse(raw)
	if err != nil {
		c.Reason = err.Error()
		return c, nil
	}
	verify := func(key signing.PublicKey) bool {
		if !key.Has(parsed.KeyID) {
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
		if verify(s.key) {
			c.Services = append(c.Services, s.SigningService)
		}
	}
	for i := 0; i < len(k.others) && !c.Verified; i++ {
		verify(k.others[i])
	}
	if ctx.Err() != nil {
		return Check{}, context.Cause(ctx)
	}
	return c, nil
}

// Signature is a signature of a manifest, with its verification.
type Signature struct {
	pulp.Signature
	Check
}

// Manifest is a manifest in a report, with its signatures.
type Manifest struct {
	pulp.Manifest
	Signatures []Signature

	sha256 digest.Digest // of the payload
}

// size returns the total size of the signatures in bytes.
func (m Manifest) size() int {
	n := 0
	for _, g := range m.Signatures {
		n += len(g.Content)
	}
	return n
}

// Report has the manifest of a tag and, when that is a list, the manifests in the list and in lists within it. These
// lists themselves are omitted.
type Report struct{ Manifests []Manifest }

// Tag returns the report about a tag or digest that a target serves. The error is NotFound when the target does not
// serve it, and TooLarge when a limit is exceeded: an incomplete report would not support a decision.
func Tag(ctx context.Context, s *store.Store, t record.Target, reference string, keys Keys, at time.Time) (Report, error) {
	root, err := s.Serving.ServedManifest(ctx, t, reference)
	if err != nil {
		return Report{}, err
	}
	var r Report
	size := 0 // of the signatures in bytes
	queue, seen := []pulp.Manifest{root}, map[string]bool{root.ID: true}
	for len(queue) > 0 {
		if len(seen) > maxManifests {
			return Report{}, fault.New(fault.TooLarge,
				"The list has more than %d manifests, which is too many for verification.", maxManifests)
		}
		m := queue[0]
		queue = queue[1:]
		if m.ID == root.ID || !pulp.IsList(m.MediaType) {
			checked, err := checkManifest(ctx, s, t, m, keys, at)
			if err != nil {
				return Report{}, err
			}
			if size += checked.size(); size > maxSignatures {
				return Report{}, fault.New(fault.TooLarge,
					"The images have more than %d MiB of signatures, which is too much for verification.", maxSignatures>>20)
			}
			r.Manifests = append(r.Manifests, checked)
		}
		if !pulp.IsList(m.MediaType) {
			continue
		}
		children, err := s.Serving.ServedChildren(ctx, t, m.ID, maxManifests+1)
		if err != nil {
			return Report{}, err
		}
		queue = append(queue, unseen(children, seen)...)
	}
	return r, nil
}

// unseen returns the manifests that are not in seen, and adds them to it.
func unseen(manifests []pulp.Manifest, seen map[string]bool) []pulp.Manifest {
	var found []pulp.Manifest
	for _, m := range manifests {
		if !seen[m.ID] {
			seen[m.ID] = true
			found = append(found, m)
		}
	}
	return found
}

// checkManifest verifies the signatures of one manifest.
func checkManifest(ctx context.Context, s *store.Store, t record.Target, m pulp.Manifest, keys Keys, at time.Time) (Manifest, error) {
	signatures, err := s.Serving.ServedSignatures(ctx, t, m.ID)
	if err != nil {
		return Manifest{}, err
	}
	checked := Manifest{Manifest: m, sha256: m.Digest}
	if m.Digest.Algorithm() != digest.SHA256 {
		payload, err := s.Serving.Payload(ctx, m.ID) // ServedChildren returns manifests without it
		if err != nil {
			return Manifest{}, err
		}
		checked.sha256 = digest.FromBytes(payload)
	}
	for _, g := range signatures {
		c, err := keys.Check(ctx, g.Content, at)
		if err != nil {
			return Manifest{}, err
		}
		checked.Signatures = append(checked.Signatures, Signature{g, c})
	}
	return checked, nil
}

// Images returns the manifests that must be signed for clients: the images in a list, of which they pull one, or else
// the manifest of the tag.
func (r Report) Images() []Manifest {
	if len(r.Manifests) > 1 && pulp.IsList(r.Manifests[0].MediaType) {
		return r.Manifests[1:]
	}
	return r.Manifests[:1]
}

// Signed reports whether each image has a verified signature for exactly this docker reference.
func (r Report) Signed(reference string) bool {
	for _, m := range r.Images() {
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

// Verdict is the decision of a policy about a docker reference.
type Verdict struct {
	Accepted  bool             // each image is accepted; the verdict about a list matters to clients that copy it as a whole
	Reference string           // complete
	Manifests []policy.Verdict // for each manifest of the report
}

// Evaluate returns the decision of clients with a policy about a docker reference of the report's tag. The error is
// Invalid when clients cannot pull the reference.
func (r Report) Evaluate(ctx context.Context, p *policy.Policy, reference string, at time.Time) (Verdict, error) {
	v := Verdict{Accepted: true, Reference: reference}
	firstImage := len(r.Manifests) - len(r.Images())
	for i, m := range r.Manifests {
		if ctx.Err() != nil {
			return Verdict{}, context.Cause(ctx)
		}
		image := policy.Image{Reference: reference, Manifest: m.Payload, Digest: m.sha256, Listed: i > 0}
		for _, g := range m.Signatures {
			image.Signatures = append(image.Signatures, g.Content)
		}
		decision, err := p.Evaluate(ctx, image, at)
		if err != nil {
			return Verdict{}, err
		}
		v.Reference = decision.Reference
		v.Accepted = v.Accepted && (i < firstImage || decision.Accepted)
		v.Manifests = append(v.Manifests, decision)
	}
	return v, nil
}
