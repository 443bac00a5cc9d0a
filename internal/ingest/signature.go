package ingest

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/signing"
)

// SignatureValidator validates signatures that come from outside (compatibility.md#uploaded-signatures).
type SignatureValidator struct {
	Store *store.Store
	// RefuseUnknown refuses signatures by keys that no signing service has.
	RefuseUnknown bool
	// Observe receives the result for each signature; nil: nothing does.
	Observe func(Validation)
}

// Validation is the result of validating a signature.
type Validation string

// The results of validations.
const (
	ValidationVerified Validation = "verified"    // with the key of a signing service
	ValidationUnknown  Validation = "unknown_key" // accepted without verification
	ValidationRefused  Validation = "refused"
	ValidationError    Validation = "error" // the signature could not be validated
)

// Validations returns all results.
func Validations() []Validation {
	return []Validation{ValidationVerified, ValidationUnknown, ValidationRefused, ValidationError}
}

// validation returns the result for a signature and the error of its validation.
func validation(g pulp.Signature, err error) Validation {
	switch {
	case fault.Is(err, fault.Invalid):
		return ValidationRefused
	case err != nil:
		return ValidationError
	case g.VerifiedBy != "":
		return ValidationVerified
	}
	return ValidationUnknown
}

// ErrUnreadable says that bytes are not a signature of an image.
var ErrUnreadable = fault.New(fault.Invalid, "signature invalid")

// Validate returns the signature to store for the bytes of a signature of a manifest. The signature must name that
// manifest and have a valid time (compatibility.md#clock-skew); if its key is one of a signing service, it must
// verify. Otherwise Validate returns an Invalid error with the reason, together with the parts of the signature that
// could be read.
func (v SignatureValidator) Validate(ctx context.Context, manifest digest.Digest, raw []byte) (pulp.Signature, error) {
	g, err := v.validate(ctx, manifest, raw)
	if v.Observe != nil {
		v.Observe(validation(g, err))
	}
	return g, err
}

func (v SignatureValidator) validate(ctx context.Context, manifest digest.Digest, raw []byte) (pulp.Signature, error) {
	foreign, err := signing.Parse(raw)
	if err != nil {
		return pulp.Signature{}, ErrUnreadable
	}
	g := pulp.Signature{
		Digest: signing.Digest(raw), Name: signing.Name(manifest, raw), Content: raw, KeyID: foreign.KeyID,
		Reference: foreign.Claim.DockerReference, Creator: foreign.Claim.Creator, SignedAt: foreign.CreatedAt.Unix(),
	}
	if foreign.Fingerprint != "" {
		g.Fingerprint = &foreign.Fingerprint
	}
	now := time.Now()
	switch {
	case foreign.Claim.ManifestDigest != manifest:
		return g, fault.New(fault.Invalid, "The signature is for another manifest.")
	case foreign.CreatedAt.After(now.Add(signing.ClockSkew)):
		return g, fault.New(fault.Invalid, "The signature's time is in the future.")
	case !foreign.ExpiresAt.IsZero() && !now.Before(foreign.ExpiresAt):
		return g, fault.New(fault.Invalid, "The signature has expired.")
	}
	services, err := v.Store.Signatures.SigningServices(ctx)
	if err != nil {
		return g, err
	}
	for _, s := range services {
		key, err := signing.ParsePublicKey(s.PublicKey)
		if err != nil || !key.Has(foreign.KeyID) {
			continue
		}
		verified, err := signing.VerifyForeign(ctx, raw, key, now)
		if ctx.Err() != nil {
			return g, context.Cause(ctx)
		}
		if err != nil {
			return g, fault.New(fault.Invalid, "The signature does not verify with the key of signing service %s.", s.Name)
		}
		g.VerifiedBy = verified.Fingerprint()
		return g, nil
	}
	if v.RefuseUnknown {
		return g, fault.New(fault.Invalid, "The signature's key is not one that the server knows.")
	}
	return g, nil
}
