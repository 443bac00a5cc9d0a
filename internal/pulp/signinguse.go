package pulp

import "slices"

// Assigner is the origin of a repository's signing service. The database stores the values.
type Assigner string

// The assigners. The empty value means that no service is assigned.
const (
	AssignedByAdmin Assigner = "admin"  // an administrator
	AssignedByOwner Assigner = "owner"  // a user with permission to modify the repository, under signing.use: repository_owners
	AssignedEarlier Assigner = "before" // unknown: a version of the server that did not record it
)

// SigningUse decides which repositories may use which signing services. Clients trust a key for all repositories of a
// host, so the use of a key needs its own permission. The zero value allows only assignments by administrators. See
// compatibility.md#use-of-signing-services.
type SigningUse struct {
	// ByOwners permits every user who may modify a repository to choose its signing service.
	ByOwners bool
	// Assigned returns the names of the services that the configuration assigns to a repository, the default first. nil
	// assigns none.
	Assigned func(repository string) []string
}

// Allows reports whether users with permission to sign the repository may sign it with the service. Administrators may
// use every service.
func (u SigningUse) Allows(r Repository, s SigningService) bool {
	return u.AssignmentValid(r) && r.SigningServiceID == s.ID || u.ByOwners || slices.Contains(u.Configured(r), s.Name)
}

// AssignmentValid reports whether the repository has a signing service and its assigner may assign services.
func (u SigningUse) AssignmentValid(r Repository) bool {
	return r.SigningServiceID != "" &&
		(u.ByOwners || r.SigningAssigned == AssignedByAdmin || r.SigningAssigned == AssignedEarlier)
}

// Configured returns the names of the services that the configuration assigns to the repository, the default first.
func (u SigningUse) Configured(r Repository) []string {
	if u.Assigned == nil {
		return nil
	}
	return u.Assigned(r.PolicyName())
}
