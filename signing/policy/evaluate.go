package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
)

// Image is what a client has before it when it decides: what it pulls, and what the registry sent.
type Image struct {
	Reference  string   // by which it is pulled: with a tag, which is latest when there is none, or a digest
	Manifest   []byte   // of an image; of a list only where a client takes it whole
	Signatures [][]byte // of the manifest
	Listed     bool     // it is of a list that the reference names: a digest in that is the list's, and the client knows this one's from there
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

// Evaluate says what clients with this policy would do with an image at a time. Invalid when the reference is none to pull.
func (p *Policy) Evaluate(image Image, at time.Time) (Verdict, error) {
	reference, err := parseImage(image.Reference)
	if err != nil {
		return Verdict{}, err
	}
	scope, requirements := p.scope(reference)
	v := Verdict{Accepted: true, Reference: reference.String(), Scope: scope}
	if reference.digest != "" && !image.Listed && reference.digest.Algorithm().FromBytes(image.Manifest) != reference.digest {
		return Verdict{}, fault.New(fault.Invalid, "The manifest is not that of the digest in %q.", image.Reference)
	}
	for _, r := range requirements {
		o := p.evaluate(r, reference, image, at)
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

func (p *Policy) evaluate(r *requirement, reference named, image Image, at time.Time) Outcome {
	o := Outcome{Type: r.kind, Evaluated: true, Signature: -1}
	switch r.kind {
	case Accept:
		o.Accepted = true
	case Reject:
		o.Reason = "the policy rejects every image here"
	case SignedBy:
		p.signedBy(&o, r, reference, image, at)
	case BaseLayer:
		o.Reason = "signedBaseLayer is met by no image: clients do not implement it"
	default:
		o.Evaluated, o.Reason = false, "not evaluated: this program knows nothing of "+r.kind
	}
	return o
}

// signedBy looks for one signature that satisfies a requirement.
func (p *Policy) signedBy(o *Outcome, r *requirement, reference named, image Image, at time.Time) {
	ring, err := p.ring(r)
	switch {
	case len(image.Signatures) == 0:
		o.Reason = "a signature is required, and there is none"
	case err != nil:
		o.Reason = err.Error()
	}
	if o.Reason != "" {
		return
	}
	for i, raw := range image.Signatures {
		key, err := r.satisfied(ring, reference, image.Manifest, raw, at)
		if err == nil {
			o.Accepted, o.Signature, o.Key = true, i, key
			return
		}
		o.Rejected = append(o.Rejected, err.Error())
	}
	o.Reason = "none of the signatures satisfies it"
	if len(o.Rejected) == 1 {
		o.Reason = o.Rejected[0]
	}
}

// PublicKeys returns every key of the policy that can be read.
func (p *Policy) PublicKeys() []signing.PublicKey {
	var keys []signing.PublicKey
	for _, r := range p.all() {
		if r.kind == SignedBy && r.keyType == gpgKeys {
			if ring, err := p.ring(r); err == nil {
				keys = append(keys, ring.Keys()...)
			}
		}
	}
	return keys
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

// ring returns the keys of a requirement, reading them once.
func (p *Policy) ring(r *requirement) (signing.Keyring, error) {
	if r.read == nil {
		ring, err := p.readRing(r)
		r.read = &readRing{ring, err}
	}
	return r.read.ring, r.read.err
}

func (p *Policy) readRing(r *requirement) (signing.Keyring, error) {
	if r.keyType != gpgKeys {
		return signing.Keyring{}, fmt.Errorf("clients do not implement the keyType %s", r.keyType)
	}
	blobs, err := p.keys(r)
	if err != nil {
		return signing.Keyring{}, err
	}
	if len(blobs) == 0 {
		return signing.Keyring{}, errors.New("the requirement names no keys")
	}
	return signing.ParseKeyring(blobs...)
}

// satisfied says whether one signature satisfies a requirement, and by which key: its key must be one of these, and it must be for
// this manifest and for a reference that stands for the one that is pulled.
func (r *requirement) satisfied(ring signing.Keyring, reference named, manifest, raw []byte, at time.Time) (string, error) {
	v, payload, err := ring.Verify(raw, at)
	if err != nil {
		return "", err
	}
	claim := v.Claim()
	if !wholeSeconds(payload) {
		return "", errors.New("the signature's timestamp is no whole number, which clients refuse")
	}
	if claim.ManifestDigest != digest.FromBytes(manifest) {
		return "", fmt.Errorf("the signature is for %s", claim.ManifestDigest)
	}
	signed, err := parseNamed(claim.DockerReference)
	if err != nil {
		return "", fmt.Errorf("the signature is for %q: %w", claim.DockerReference, err)
	}
	if !r.identity.matches(reference, signed) {
		return "", fmt.Errorf("the signature is for %s", claim.DockerReference)
	}
	return v.Fingerprint(), nil
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
