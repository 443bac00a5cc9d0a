package signing

import (
	"context"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
)

// Made is a signature that was made here, and the proof that it is what was asked for.
type Made struct {
	Raw      []byte // the binary OpenPGP message
	Verified Verified
}

// Checked makes signatures through a Signer and lets none out that its own key cannot verify, or that claims something else than was asked
// for.
type Checked struct {
	signer Signer
	key    PublicKey
}

// NewChecked returns a Checked around a signer and the public key that its signatures are verified with.
func NewChecked(signer Signer, key PublicKey) *Checked { return &Checked{signer, key} }

// Fingerprint returns the fingerprint of the key that the signatures are verified with.
func (c *Checked) Fingerprint() string { return c.key.Fingerprint() }

// Sign makes one signature. What the signer returns is verified, and its manifest digest and docker reference are compared with the
// request's; creator and time are the signer's own.
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
