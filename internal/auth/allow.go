package auth

import "github.com/countersign/countersign/internal/pulp"

// Action is something that one may want to do.
type Action string

// The actions that are decided about.
const (
	Pull        Action = "pull"         // read a repository's content
	Push        Action = "push"         // add content to a repository, making it when it is not there
	Delete      Action = "delete"       // take content out of a repository, or the repository away
	Sign        Action = "sign"         // have a repository's content signed
	Modify      Action = "modify"       // change a repository's settings
	View        Action = "view"         // see an object over the REST API
	ListCatalog Action = "list-catalog" // see that a repository exists
	Administer  Action = "administer"   // everything that concerns the whole server
)

// Object is what the action is on.
type Object struct {
	Path    string // the base path or repository name; empty for what is the server's
	Exists  bool
	Private bool
	// AnonymousPull reports whether callers without an account may read public repositories.
	AnonymousPull bool
}

// AnonymousPull says how callers without an account may read public repositories.
type AnonymousPull string

// The ways in which callers without an account may read public repositories.
const (
	AnonymousPullOff       AnonymousPull = "false" // not at all
	AnonymousPullOn        AnonymousPull = "true"  // with and without a token
	AnonymousPullWithToken AnonymousPull = "token" // only with a token, which the token service issues to everybody
)

// Allow says whether a user, nil for who has not said, may do something: the one decision that everything asks (contract
// 7.2). Staff may do everything. Others may read what is public and do as they like under the namespace of their name.
func Allow(who *pulp.User, what Action, on Object) bool {
	if who == nil {
		return what == Pull && on.Exists && !on.Private && on.AnonymousPull
	}
	if !who.Active {
		return false
	}
	if who.Staff {
		return true
	}
	own := on.Path != "" && pulp.NamespaceOf(on.Path) == who.Username
	switch what {
	case Pull, ListCatalog, View:
		return own || on.Exists && !on.Private && on.Path != ""
	case Push, Delete, Sign, Modify:
		return own
	case Administer:
		return false
	}
	return false
}
