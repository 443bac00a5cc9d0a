package pulp

import "slices"

// Assigner says who assigned a signing service to a repository. The values are stored.
type Assigner string

// The assigners. The empty value is no assignment.
const (
	AssignedByAdmin Assigner = "admin"  // an administrator
	AssignedByOwner Assigner = "owner"  // somebody who may modify the repository, while that was enough
	AssignedEarlier Assigner = "before" // somebody, before the server recorded who
)

// SigningUse is the rule that decides which repositories may use which signing services. Clients trust a key for all
// repositories of a host, so using one is a permission of its own. The zero value allows what an administrator assigned.
type SigningUse struct {
	// ByOwners lets everybody who may modify a repository choose its signing service.
	ByOwners bool
	// Assigned returns the names of the services that the configuration assigns to repositories of this name, the default first; nil assigns none.
	Assigned func(repository string) []string
}

// Allows reports whether the repository's images may be signed with the service at the request of anybody who may have the repository signed.
func (u SigningUse) Allows(r Repository, s SigningService) bool {
	return u.Holds(r) && r.SigningServiceID == s.ID || u.ByOwners || slices.Contains(u.Configured(r), s.Name)
}

// Holds reports whether the repository's own signing service was assigned by somebody who may assign one.
func (u SigningUse) Holds(r Repository) bool {
	return r.SigningServiceID != "" && (u.ByOwners || r.SigningAssigned == AssignedByAdmin || r.SigningAssigned == AssignedEarlier)
}

// Configured returns the names of the services that the configuration assigns to the repository, the default first.
func (u SigningUse) Configured(r Repository) []string {
	if u.Assigned == nil {
		return nil
	}
	return u.Assigned(r.PolicyName())
}
