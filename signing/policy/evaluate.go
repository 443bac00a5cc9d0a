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

// Image is what a client has before it when it decides: what it pulls, and what the registry sent.
type Image struct {
	Reference  string        // by which it is pulled: with a tag, which is latest when there is none, or a digest
	Manifest   []byte        // of an image; of a list only where a client takes it whole
	Digest     digest.Digest // sha256 of Manifest; empty: Evaluate computes it
	Signatures [][]byte      // of the manifest
	Listed     bool          // it is of a list that the reference names: a digest in that is the list's, and the client knows this one's from there
}

// Verdict is what a policy says of an image.
type Verdict struct {
	Accepted     bool
	Reference    string // in full
	Scope        string // of the transport docker; "default" and "docker" when no scope but one of these holds
	Requirements []Outcome
}

// Outcome is what one requirement says. The image is accepted when all accept it.
type Outcome struct {
	Type      string
	Accepted  bool
	Evaluated bool     // false for what this program does not know how to evaluate; it is not accepted then
	Reason    string   // why it is not accepted; empty when it is
	Signature int      // the first of the image's signatures that satisfies the requirement; -1 when none does
	Key       string   // fingerprint of that signature's primary key
	Rejected  []string // why, for each signature before that one
}

// Evaluate says what clients with this policy would do with an image at a time. Invalid when the reference is none to pull; the cause of ctx's
// end when that comes first.
func (p *Policy) Evaluate(ctx context.Context, image Image, at time.Time) (Verdict, error) {
	reference, err := parseImage(image.Reference)
	if err != nil {
		return Verdict{}, err
	}
	scope, requirements := p.scope(reference)
	v := Verdict{Accepted: true, Reference: reference.String(), Scope: scope}
	if reference.digest != "" && !image.Listed && reference.digest.Algorithm().FromBytes(image.Manifest) != reference.digest {
		return Verdict{}, fault.New(fault.Invalid, "The manifest is not that of the digest in %q.", image.Reference)
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

// scope returns the nearest scope of an image, and its requirements.
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
		o.Reason = "the policy rejects every image here"
	case SignedBy:
		if err := p.signedBy(ctx, &o, r, reference, image, at); err != nil {
			return Outcome{}, err
		}
	case BaseLayer:
		o.Reason = "signedBaseLayer is met by no image: clients do not implement it"
	default:
		o.Evaluated, o.Reason = false, "not evaluated: this program knows nothing of "+r.kind
	}
	return o, nil
}

// signedBy looks for one signature that satisfies a requirement. It fails only when ctx ends.
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

// reject says why a requirement is not met, or that this is not known.
func (o *Outcome) reject(err error) {
	_, limited := errors.AsType[*signing.NotEvaluatedError](err)
	o.Evaluated, o.Reason = !limited, err.Error()
}

// KeyCount returns the number of keys in the policy, one for each requirement that has it. It reads none of them.
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

// PublicKeys returns every key of the policy that can be read, those of each key ring once. It fails only when ctx ends.
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

// Longest returns how many requirements the longest list has.
func (p *Policy) Longest() int {
	longest := len(p.fallback)
	for _, scopes := range p.transports {
		for _, requirements := range scopes {
			longest = max(longest, len(requirements))
		}
	}
	return longest
}

// ring returns the keys of a requirement. Each key ring is read once, also when several requirements have it.
func (p *Policy) ring(ctx context.Context, r *requirement) (signing.Keyring, error) {
	k := p.scan(r)
	if k.err != nil {
		return signing.Keyring{}, k.err
	}
	if k.ring != nil {
		return *k.ring, nil
	}
	ring, err := k.scanned.Read(ctx)
	if ctx.Err() != nil { // says nothing of the keys
		return signing.Keyring{}, context.Cause(ctx)
	}
	k.ring, k.err = &ring, err
	return ring, err
}

// scan returns the key ring of a requirement, of which nothing was read yet.
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

// satisfied says whether one signature satisfies a requirement, and by which key: its key must be one of these, and it must be for
// this manifest and for a reference that stands for the one that is pulled. A signature by a key that is not evaluated gives a
// NotEvaluatedError only if nothing else is wrong with it.
func (r *requirement) satisfied(ctx context.Context, ring signing.Keyring, reference named, manifest digest.Digest, raw []byte, at time.Time) (string, error) {
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
		return "", errors.New("the signature's timestamp is no whole number, which clients refuse")
	}
	return v.Fingerprint(), r.fits(v.Claim(), reference, manifest)
}

// fits reports why a claim is not one for this manifest and reference; nil when it is.
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

// wholeSeconds says whether a claim's timestamp, if it has one, is a whole number: clients refuse others, and this server does not.
func wholeSeconds(payload []byte) bool {
	var claim map[string]map[string]any
	if json.Unmarshal(payload, &claim) != nil {
		return false
	}
	stamp, there := claim["optional"]["timestamp"]
	number, ok := stamp.(float64)
	return !there || ok && number == math.Trunc(number)
}
