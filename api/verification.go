package api

import "github.com/countersign/countersign/api/internal/reply"

// Verification is the result of a request to verify an image.
type Verification string

// The results of verifications.
const (
	VerificationAccepted Verification = "accepted"  // by the policy of the request
	VerificationRejected Verification = "rejected"  // by the policy
	VerificationReported Verification = "no_policy" // the request has no policy
	VerificationError    Verification = "error"     // the request was refused or failed
)

// Verifications returns all results.
func Verifications() []Verification {
	return []Verification{VerificationAccepted, VerificationRejected, VerificationReported, VerificationError}
}

// verification returns the result of a response.
func verification(rep reply.Reply, err error) Verification {
	if err != nil {
		return VerificationError
	}
	v, _ := rep.Body.(*verified)
	switch {
	case v == nil || v.Accepted == nil:
		return VerificationReported
	case *v.Accepted:
		return VerificationAccepted
	}
	return VerificationRejected
}
