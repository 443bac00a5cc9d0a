package signing

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
)

// Claim is the payload of an atomic container signature: the statement that a manifest has a docker reference. The
// format is containers-signature(5) of containers/image; see also compatibility.md#signature-format.
type Claim struct {
	ManifestDigest  digest.Digest // of the manifest's exact bytes
	DockerReference string        // host[:port]/name:tag
	Creator         string        // optional.creator; may be empty
	Timestamp       time.Time     // optional.timestamp in whole seconds; zero when absent
}

// Request is the input of Signer.Sign.
type Request struct {
	Claim         Claim
	Manifest      func(context.Context) ([]byte, error) // reads the manifest's exact bytes
	CorrelationID string                                // of the task or request that needs the signature
}

// Signer signs claims with one key. Sign returns a binary OpenPGP signed message. A Signer may set the creator and
// the timestamp of the claim itself. Callers use Checked, which verifies the result and compares the digest and the
// reference. A Signer is safe for concurrent use. An error that a retry may cure, such as a device that does not
// answer, is an outage of fault.SigningKey.
type Signer interface {
	Sign(ctx context.Context, r Request) ([]byte, error)
}
