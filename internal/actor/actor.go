// Package actor carries the actor of a request, a task or a command in the context: the person or program on whose
// behalf the code runs. The audit log and the versions of repositories record it.
//
// The correlation id of the context is internal/telemetry's.
package actor

import (
	"context"
	"net"
)

// Kind is a kind of actor.
type Kind string

// The kinds of actors. The first four are those of accounts.
const (
	User      Kind = "user"      // a local account with a password
	Robot     Kind = "robot"     // an account that belongs to a namespace
	OIDC      Kind = "oidc"      // a CI job with a token of a trusted issuer
	External  Kind = "external"  // a person that another source confirms
	Command   Kind = "command"   // the operator, on the command line
	System    Kind = "system"    // the server itself
	Anonymous Kind = "anonymous" // a request without valid credentials
)

// The names of actors without an account.
const (
	CommandName   = "command line"
	SystemName    = "system"
	AnonymousName = "anonymous"
)

// Actor identifies the author of an action. The zero Actor is none; From never returns it.
type Actor struct {
	ID   int64  // of the account; 0: none
	Name string // of the account; otherwise one of the names above
	Kind Kind
	// Identity is the API token or the rule, with the subject, that authenticated the account; empty: its password. It
	// contains no secret.
	Identity string
	Address  string // of the client, without the port; empty outside requests
}

// ByCommand returns the actor of commands.
func ByCommand() Actor { return Actor{Name: CommandName, Kind: Command} }

// BySystem returns the actor of work that the server starts itself.
func BySystem() Actor { return Actor{Name: SystemName, Kind: System} }

// Unknown returns the actor of a request before its credentials are verified. remote is http.Request.RemoteAddr: an
// address with or without a port.
func Unknown(remote string) Actor {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		remote = host
	}
	return Actor{Name: AnonymousName, Kind: Anonymous, Address: remote}
}

// Authenticated reports whether the actor has proved an identity, or is the operator or the server.
func (a Actor) Authenticated() bool { return a.Kind != Anonymous && a.Kind != "" }

type key struct{}

// With returns a context with an actor.
func With(ctx context.Context, a Actor) context.Context { return context.WithValue(ctx, key{}, a) }

// From returns the actor of a context. Without one the server itself acts.
func From(ctx context.Context) Actor {
	if a, ok := ctx.Value(key{}).(Actor); ok {
		return a
	}
	return BySystem()
}
