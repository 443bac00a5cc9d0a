package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
)

// Image is the input of a client's decision.
type Image struct {
	Reference  string        // of the pull, with a tag or a digest; the default tag is latest
	Manifest   []byte        // of an image, or of a list that a client copies as a whole
	Digest     digest.Digest // sha256 of Manifest; Evaluate computes it when it is empty
	Signatures [][]byte      // of the manifest
	Listed     bool          // the manifest is in a list, and a digest in Reference is the list's
}

// Verdict is the decision of a policy about an image.
type Verdict struct {
	Accepted     bool
	Reference    string    // complete
	Scope        string    // the scope that applied; "docker" or "default" when only the transport or the policy's default did
	Requirements []Outcome // the image is accepted when all accept it
}

// Outcome is the result of one requirement.
type Outcome struct {
	Type      string
	Accepted  bool
	Evaluated bool     // false when this program cannot evaluate the requirement; Accepted is false then too
	Reason    string   // why it is not accepted; empty when it is accepted
	Signature int      // index of the first signature that satisfies the requirement, or -1
	Key       string   // fingerprint of the primary key of that signature
	Rejected  []string // the reason for each earlier signature
}

// Evaluate returns the decision of clients with this policy about an image at a given time. The error is Invalid when
// the reference is not that of a pull, and the cause of the end of ctx if that comes first.
func (p *Policy) Evaluate(ctx context.Context, image Image, at time.Time) (Verdict, error) {
	reference, err := parseImage(image.Reference)
	if err != nil {
		return Verdict{}, err
	}
	scope, requirements := p.scope(reference)
	v := Verdict{Accepted: true, Reference: reference.String(), Scope: scope}
	if reference.digest != "" && !image.Listed && reference.digest.Algorithm().FromBytes(image.Manifest) != reference.digest {
		return Verdict{}, fault.New(fault.Invalid, "The manifest does not have the digest in %q.", image.Reference)
	}
	if image.Digest == "" {
		image.Digest = digest.FromBytes(image.Manifest)
	}
	for _, r := range requirements {
		o, err := p.evaluate(ctx, r, reference, image, at)
		if err != nil {
			return Verdict{}, err
		}
		v.Accepted = v.Accepted && o.Accepted
		v.Requirements = append(v.Requirements, o)
	}
	return v, nil
}

// scope returns the nearest scope of an image and its requirements.
func (p *Policy) scope(reference named) (string, []*requirement) {
	docker := p.transports["docker"]
	for _, scope := range reference.scopes() {
		if requirements, there := docker[scope]; there {
			if scope == "" {
				scope = "docker"
			}
			return scope, requirements
		}
	}
	return "default", p.fallback
}

func (p *Policy) evaluate(ctx context.Context, r *requirement, reference named, image Image, at time.Time) (Outcome, error) {
	o := Outcome{Type: r.kind, Evaluated: true, Signature: -1}
	switch r.kind {
	case Accept:
		o.Accepted = true
	case Reject:
		o.Reason = "the policy rejects all images in this scope"
	case SignedBy:
		if err := p.signedBy(ctx, &o, r, reference, image, at); err != nil {
			return Outcome{}, err
		}
	case BaseLayer:
		o.Reason = "no image satisfies signedBaseLayer: clients do not implement it"
	default:
		o.Evaluated, o.Reason = false, "not evaluated: this program does not support "+r.kind
	}
	return o, nil
}

// signedBy records the first signature that satisfies a requirement. It returns an error only when ctx ends.
func (p *Policy) signedBy(ctx context.Context, o *Outcome, r *requirement, reference named, image Image, at time.Time) error {
	if len(image.Signatures) == 0 {
		o.Reason = "a signature is required, and there is none"
		return nil
	}
	ring, err := p.ring(ctx, r)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		o.reject(err)
		return nil
	}
	var unevaluated error
	for i, raw := range image.Signatures {
		key, err := r.satisfied(ctx, ring, reference, image.Digest, raw, at)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			o.Accepted, o.Signature, o.Key = true, i, key
			return nil
		}
		if _, limited := errors.AsType[*signing.NotEvaluatedError](err); limited {
			unevaluated = err
		}
		o.Rejected = append(o.Rejected, err.Error())
	}
	switch {
	case unevaluated != nil:
		o.reject(unevaluated)
	case len(o.Rejected) == 1:
		o.Reason = o.Rejected[0]
	default:
		o.Reason = "none of the signatures satisfies it"
	}
	return nil
}

// reject records why a requirement is not met, or not evaluated.
func (o *Outcome) reject(err error) {
	_, limited := errors.AsType[*signing.NotEvaluatedError](err)
	o.Evaluated, o.Reason = !limited, err.Error()
}

// KeyCount returns the number of keys of all requirements. It parses none of them.
func (p *Policy) KeyCount() int {
	count := 0
	for _, r := range p.all() {
		if r.kind == SignedBy && r.keyType == gpgKeys {
			if k := p.scan(r); k.scanned != nil {
				count += k.scanned.Len()
			}
		}
	}
	return count
}

// PublicKeys returns all keys of the policy that can be parsed, without those of repeated key rings. It fails only
// when ctx ends.
func (p *Policy) PublicKeys(ctx context.Context) ([]signing.PublicKey, error) {
	var keys []signing.PublicKey
	seen := map[*keyRing]bool{}
	for _, r := range p.all() {
		if r.kind != SignedBy || r.keyType != gpgKeys || seen[p.scan(r)] {
			continue
		}
		seen[p.scan(r)] = true
		ring, err := p.ring(ctx, r)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err == nil {
			keys = append(keys, ring.Keys()...)
		}
	}
	return keys, nil
}

// Longest returns the length of the longest list of requirements.
func (p *Policy) Longest() int {
	longest := len(p.fallback)
	for _, scopes := range p.transports {
		for _, requirements := range scopes {
			longest = max(longest, len(requirements))
		}
	}
	return longest
}

// ring returns the keys of a requirement. Each key ring is parsed once, also when several requirements have it.
func (p *Policy) ring(ctx context.Context, r *requirement) (signing.Keyring, error) {
	k := p.scan(r)
	if k.err != nil {
		return signing.Keyring{}, k.err
	}
	if k.ring != nil {
		return *k.ring, nil
	}
	ring, err := k.scanned.Read(ctx)
	if ctx.Err() != nil { // not an error of the keys
		return signing.Keyring{}, context.Cause(ctx)
	}
	k.ring, k.err = &ring, err
	return ring, err
}

// scan returns the key ring of a requirement. Its keys may not be parsed yet.
func (p *Policy) scan(r *requirement) *keyRing {
	name := r.keyType + "\x00data\x00" + string(r.data)
	if r.data == nil {
		name = r.keyType + "\x00files\x00" + strings.Join(r.paths, "\x00")
	}
	if k := p.rings[name]; k != nil {
		return k
	}
	k := &keyRing{}
	k.scanned, k.err = p.scanRing(r)
	p.rings[name] = k
	return k
}

func (p *Policy) scanRing(r *requirement) (*signing.ScannedKeyring, error) {
	if r.keyType != gpgKeys {
		return nil, fmt.Errorf("clients do not implement the keyType %s", r.keyType)
	}
	blobs, err := p.keys(r)
	if err != nil {
		return nil, err
	}
	if len(blobs) == 0 {
		return nil, errors.New("the requirement names no keys")
	}
	return signing.ScanKeyring(blobs...)
}

// satisfied returns the fingerprint of the key of a signature that satisfies a requirement, or the reason why it does
// not: one of the keys must have made it, for this manifest and a matching reference. The error for a signature with
// a key that is not evaluated is a NotEvaluatedError only if the signature satisfies all else.
func (r *requirement) satisfied(
	ctx context.Context, ring signing.Keyring, reference named, manifest digest.Digest, raw []byte, at time.Time,
) (string, error) {
	v, payload, err := ring.Verify(ctx, raw, at)
	if _, limited := errors.AsType[*signing.NotEvaluatedError](err); limited {
		said, errParse := signing.Parse(raw)
		if errParse != nil {
			return "", errParse
		}
		if errClaim := r.fits(said.Claim, reference, manifest); errClaim != nil {
			return "", errClaim
		}
	}
	if err != nil {
		return "", err
	}
	if !wholeSeconds(payload) {
		return "", errors.New("the signature's timestamp is not a whole number, and clients reject that")
	}
	return v.Fingerprint(), r.fits(v.Claim(), reference, manifest)
}

// fits returns why a claim is for another manifest or reference, or nil.
func (r *requirement) fits(claim signing.Claim, reference named, manifest digest.Digest) error {
	if claim.ManifestDigest != manifest {
		return fmt.Errorf("the signature is for %s", claim.ManifestDigest)
	}
	signed, err := parseNamed(claim.DockerReference)
	if err != nil {
		return fmt.Errorf("the signature is for %q: %w", claim.DockerReference, err)
	}
	if !r.identity.matches(reference, signed) {
		return fmt.Errorf("the signature is for %s", claim.DockerReference)
	}
	return nil
}

// wholeSeconds reports whether the timestamp of a claim, if any, is a whole number. Clients reject other timestamps,
// and this server accepts them.
func wholeSeconds(payload []byte) bool {
	var claim map[string]map[string]any
	if json.Unmarshal(payload, &claim) != nil {
		return false
	}
	stamp, there := claim["optional"]["timestamp"]
	number, ok := stamp.(float64)
	return !there || ok && number == math.Trunc(number)
}
