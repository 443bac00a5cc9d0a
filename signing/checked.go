package signing

import (
	"context"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
)

// Made is a new signature, with the result of its verification.
type Made struct {
	Raw      []byte // the binary OpenPGP message
	Verified Verified
}

// Checked creates signatures with a Signer. It returns only signatures that the public key verifies and that contain the
// requested manifest digest and docker reference.
type Checked struct {
	signer Signer
	key    PublicKey
}

// NewChecked returns a Checked for a signer and the public key of its signatures.
func NewChecked(signer Signer, key PublicKey) *Checked { return &Checked{signer, key} }

// Fingerprint returns the fingerprint of the primary key.
func (c *Checked) Fingerprint() string { return c.key.Fingerprint() }

// Sign creates one signature and verifies it. The creator and the timestamp of the claim are the signer's. The error is
// Invalid when the signer returned anything else than the requested signature.
func (c *Checked) Sign(ctx context.Context, r Request) (Made, error) {
	raw, err := c.signer.Sign(ctx, r)
	if err != nil {
		return Made{}, err
	}
	verified, err := Verify(raw, c.key, time.Now())
	if err != nil {
		return Made{}, refused(err, "does not verify with the service's key")
	}
	if got := verified.Claim().ManifestDigest; got != r.Claim.ManifestDigest {
		return Made{}, refused(nil, "is of another manifest, "+string(got))
	}
	if got := verified.Claim().DockerReference; got != r.Claim.DockerReference {
		return Made{}, refused(nil, "is for another reference, "+got)
	}
	return Made{raw, verified}, nil
}

func refused(cause error, why string) error {
	if msg, ok := fault.Message(cause); ok {
		why += ": " + strings.TrimSuffix(msg, ".")
	}
	return fault.Wrap(fault.Invalid, cause, "What the signing service returned %s.", why)
}
