package access

import (
	"context"

	"github.com/countersign/countersign/internal/pulp"
)

// SignsWith reports whether a caller that may sign a repository may do that with a signing service: one that is
// assigned to the repository, or one that the caller may use. The identity of a rule may use a service for the
// repositories of the same grant only.
func (d *Decider) SignsWith(
	ctx context.Context, c *Caller, use pulp.SigningUse, r pulp.Repository, s pulp.SigningService,
) (bool, error) {
	if use.Allows(r, s) {
		return true, nil
	}
	ok, err := d.Allow(ctx, c, UseKey, OfService(s), s.ID)
	if ok && c.Account.Kind == pulp.RuleIdentity {
		ok = d.rules.SignsWith(c.Account, s.Name, r.Name)
	}
	return ok, err
}

// AssignsServiceAs returns as whom a caller that may change a repository assigns it the signing service with an id, or
// removes it; empty if the caller may do neither. Owners of the service do that as administrators.
func (d *Decider) AssignsServiceAs(ctx context.Context, c *Caller, use pulp.SigningUse, id string) (pulp.Assigner, error) {
	ok, err := d.Allow(ctx, c, AssignKey, Object{Kind: SigningService, Exists: true}, id)
	switch {
	case err != nil:
		return "", err
	case ok:
		return pulp.AssignedByAdmin, nil
	case use.ByOwners:
		return pulp.AssignedByOwner, nil
	}
	return "", nil
}
