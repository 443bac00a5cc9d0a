package signing

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
)

// Claim is what a signature says: this manifest is this docker reference. It is the payload of an atomic container
// signature (containers/image, docs/containers-signature.5; contract 5.6).
type Claim struct {
	ManifestDigest  digest.Digest // of the manifest's exact bytes
	DockerReference string        // host[:port]/name:tag
	Creator         string        // optional.creator; may be empty
	Timestamp       time.Time     // optional.timestamp, whole seconds; zero when absent
}

// Request asks a Signer for one signature.
type Request struct {
	Claim         Claim
	Manifest      func(context.Context) ([]byte, error) // reads the manifest's exact bytes; a script gets them as a file
	CorrelationID string                                // of the task or request on whose behalf it is made
}

// Signer signs claims with one key and returns the binary OpenPGP signed message. It is safe for concurrent use. A signer may set creator
// and timestamp itself; digest and reference are what the caller compares (see Checked).
type Signer interface {
	Sign(ctx context.Context, r Request) ([]byte, error)
}
