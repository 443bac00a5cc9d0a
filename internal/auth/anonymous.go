package auth

// AnonymousPull determines how callers without an account may read public repositories.
type AnonymousPull string

// The values of AnonymousPull. See compatibility.md#anonymous-reads.
const (
	AnonymousPullOff       AnonymousPull = "false" // not at all
	AnonymousPullOn        AnonymousPull = "true"  // with and without a token
	AnonymousPullWithToken AnonymousPull = "token" // only with a token, which the token service issues to every caller
)
