// Package access decides about permissions: Allow is the only function that does. It is pure. The permissions that
// roles give come with the object (Object.Granted); package internal/store/accounts reads them.
package access

import (
	"slices"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/glob"
	"github.com/countersign/countersign/internal/pulp"
)

// Caller is the authenticated origin of a request or a task. A nil Caller is anonymous.
type Caller struct {
	Account pulp.User
	Token   *Token // the API token that authenticated the caller; nil for none
	// Identity describes the credentials for the audit log: the rule and subject of a CI token; empty for a password.
	Identity string
}

// Actor returns the caller as the actor of a request. remote is http.Request.RemoteAddr.
func (c *Caller) Actor(remote string) actor.Actor {
	by := actor.Unknown(remote)
	if c == nil {
		return by
	}
	by.ID, by.Name, by.Kind, by.Identity = c.Account.ID, c.Account.Username, actor.Kind(c.Account.Kind), c.Identity
	if c.Token != nil {
		by.Identity = "token " + c.Token.ID
	}
	return by
}

// Token is an API token with its limits.
type Token struct {
	ID       string
	Patterns []string // of names of objects (glob.MatchName); nil: all objects
	Actions  []Use    // nil: all actions
}

// Limited reports whether the token permits less than its account does.
func (t *Token) Limited() bool { return t != nil && (t.Patterns != nil || t.Actions != nil) }

// Use is a class of actions to which an API token can be limited.
type Use string

// The classes of actions.
const (
	UsePull   Use = "pull"   // read objects and content
	UsePush   Use = "push"   // add and remove content, and create the repository of a first push
	UseSign   Use = "sign"   // sign content
	UseDelete Use = "delete" // delete content, versions and objects
	UseManage Use = "manage" // create objects, and change their settings and roles
)

// Uses are all classes of actions.
var Uses = []Use{UsePull, UsePush, UseSign, UseDelete, UseManage}

// permits reports whether the token permits an action on an object. Callers of a public object are not limited.
func (t *Token) permits(action Action, on Object) bool {
	switch {
	case !t.Limited():
		return true
	case on.Kind == Server || on.Kind == Accounts || on.Kind == Content:
		return false
	case !t.permitsUse(action):
		return false
	}
	matches := func(pattern string) bool { return glob.MatchName(pattern, on.Name) }
	return t.Patterns == nil || !named(on.Kind) || slices.ContainsFunc(t.Patterns, matches)
}

// permitsUse reports whether the token permits an action on the objects to which it is limited.
func (t *Token) permitsUse(action Action) bool {
	return t == nil || t.Actions == nil || slices.Contains(t.Actions, uses[action])
}

// Owner returns the id of the account that gets the owner's roles on objects that the caller creates; 0 for none. The
// rights of the rules for CI tokens are those of the configuration, so such a caller owns nothing.
func (c *Caller) Owner() int64 {
	if c == nil || c.Account.Kind == pulp.RuleIdentity {
		return 0
	}
	return c.Account.ID
}
