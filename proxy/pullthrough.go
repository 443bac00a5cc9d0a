package proxy

import (
	"cmp"
	"errors"
	"net/http"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pullthrough"
	"github.com/countersign/countersign/internal/pulp"
)

// pullThrough fetches the requested manifest from the upstream registry of a pull-through cache, if the name is below one and
// the caller may make it fetch. m and why are the result of findManifest. It returns the manifest to serve. Callers without the
// permission, and names below no cache, get m and why. See compatibility.md#pull-through.
func (c *call) pullThrough(m pulp.Manifest, why error) (pulp.Manifest, error) {
	if c.PullThrough == nil || !validReference(c.ref) || why != nil && !isAbsence(why) {
		return m, why
	}
	t, _, err := c.resolve(c.name)
	absent := fault.Is(err, fault.NotFound)
	switch {
	case err != nil && !absent:
		return m, err
	case !absent && !c.PullThrough.NeedsUpdate(t, c.ref, m):
		return m, why
	}
	d, may, err := c.mayPullNew(t.Distribution.CacheID)
	if err != nil || !may {
		return m, cmp.Or(err, why)
	}
	by := pullthrough.Puller{Name: c.caller.name(), Client: c.client()}
	hidden := false
	if absent {
		if _, found := c.Store.Serving.Resolve(c.r.Context(), c.name); found == nil { // private, or another pull has just made it
			t, _, err = c.resolve(c.name)
			absent = fault.Is(err, fault.NotFound)
			hidden = absent
			if err != nil && !absent {
				return m, err
			}
		}
	}
	switch err = nil; {
	case hidden:
		err = c.PullThrough.Ask(c.r.Context(), by, d, c.name, c.ref)
	case absent:
		err = c.PullThrough.Create(c.r.Context(), by, d, c.name, c.ref)
	case c.PullThrough.NeedsUpdate(t, c.ref, m):
		err = c.PullThrough.Update(c.r.Context(), by, t, c.ref, m)
	}
	if fault.Is(err, fault.NotFound) {
		return m, c.manifestUnknown()
	} else if err != nil {
		return m, err
	}
	return c.findManifest()
}

// isAbsence reports whether a failure says that a manifest or its name does not exist for the caller.
func isAbsence(err error) bool {
	f, ok := errors.AsType[*failure](err)
	return ok && (f.status == http.StatusNotFound || f.status == http.StatusUnauthorized)
}

// mayPullNew returns the pull-through distribution with an id, or without one that above the request's name, and reports whether
// the caller may make it fetch content. may is false if there is none.
func (c *call) mayPullNew(id string) (d pulp.Distribution, may bool, err error) {
	if id != "" {
		d, err = c.Store.Catalog.PullThrough(c.r.Context(), id)
	} else {
		d, err = c.Store.Catalog.PullThroughAbove(c.r.Context(), c.name)
	}
	if fault.Is(err, fault.NotFound) {
		return d, false, nil
	} else if err != nil {
		return d, false, err
	}
	on := access.OfDistribution(d)
	on.Name = c.name // API tokens are limited to names of repositories
	on.AnonymousPull = c.PullThroughAnonymous && (c.AnonymousPull == auth.AnonymousPullOn ||
		c.AnonymousPull == auth.AnonymousPullWithToken && c.caller.token != nil)
	if on.AnonymousPull && !d.Private {
		return d, true, nil
	}
	if c.caller.Caller == nil || !c.caller.coversPull(c.name) {
		return d, false, nil
	}
	may, err = c.Access.Allow(c.r.Context(), c.caller.Caller, access.PullNew, on, d.ID)
	return d, may, err
}

// refusePushBelowCache returns a failure if the request's name, which no distribution has, is the path of a pull-through
// distribution or below it: a push must not take the place of a repository of the upstream registry.
func (c *call) refusePushBelowCache() error {
	d, err := c.Store.Catalog.PullThroughAbove(c.r.Context(), c.name)
	if fault.Is(err, fault.NotFound) {
		return nil
	} else if err != nil {
		return err
	}
	return newError(
		http.StatusBadRequest, "NAME_INVALID",
		"The path "+d.BasePath+" is that of a pull-through cache. Push to another path, or create a distribution for this one.",
		map[string]string{"name": c.name},
	)
}
