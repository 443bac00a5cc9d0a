package auth

import "github.com/countersign/countersign/internal/pulp"

// Action is an action that needs permission.
type Action string

// The actions.
const (
	Pull        Action = "pull"         // read content of a repository
	Push        Action = "push"         // add content to a repository, or create it
	Delete      Action = "delete"       // remove content from a repository, or delete it
	Sign        Action = "sign"         // sign content of a repository
	Modify      Action = "modify"       // change settings of a repository
	View        Action = "view"         // read an object through the REST API
	ListCatalog Action = "list-catalog" // list a repository in the catalog
	Administer  Action = "administer"   // manage the server: users, signing services, remotes, ...
)

// Object is the target of an action.
type Object struct {
	Path    string // the base path or repository name; empty for objects of the whole server
	Exists  bool
	Private bool
	// AnonymousPull reports whether callers without an account may read public repositories.
	AnonymousPull bool
}

// AnonymousPull determines how callers without an account may read public repositories.
type AnonymousPull string

// The values of AnonymousPull. See compatibility.md#anonymous-reads.
const (
	AnonymousPullOff       AnonymousPull = "false" // not at all
	AnonymousPullOn        AnonymousPull = "true"  // with and without a token
	AnonymousPullWithToken AnonymousPull = "token" // only with a token, which the token service issues to every caller
)

// Allow reports whether a user may perform an action on an object. A nil user is an anonymous caller. Staff may perform
// every action. Other users may read public objects and have all permissions in the namespace of their own name, except
// Administer. This function is the only place that decides about permissions: see compatibility.md#permissions.
func Allow(user *pulp.User, action Action, on Object) bool {
	if user == nil {
		return action == Pull && on.Exists && !on.Private && on.AnonymousPull
	}
	if !user.Active {
		return false
	}
	if user.Staff {
		return true
	}
	own := on.Path != "" && pulp.NamespaceOf(on.Path) == user.Username
	switch action {
	case Pull, ListCatalog, View:
		return own || on.Exists && !on.Private && on.Path != ""
	case Push, Delete, Sign, Modify:
		return own
	case Administer:
		return false
	}
	return false
}
