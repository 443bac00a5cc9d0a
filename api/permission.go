package api

import (
	"github.com/countersign/countersign/internal/access"
)

// may reports whether the caller may perform an action on an object with an id, or on objects of its kind.
func (a *API) may(req *request, action access.Action, on access.Object, id string) (bool, error) {
	return a.Access.Allow(req.Context(), req.caller, action, on, id)
}

// require returns an error unless the caller may perform an action; see may.
func (a *API) require(req *request, action access.Action, on access.Object, id string) error {
	allowed, err := a.may(req, action, on, id)
	if err == nil && !allowed {
		err = errDenied
	}
	return err
}

// administers reports whether the caller is an administrator whose API token, if there is one, has no limits.
func administers(req *request) bool {
	return access.Allow(req.caller, access.Administer, access.Object{Kind: access.Server})
}
