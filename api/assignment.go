package api

import (
	"net/http"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/tasks"
)

// Refusals of callers who name or assign a signing service that only administrators may choose. They say nothing of whether it exists.
var (
	errAssign = &httpError{http.StatusForbidden, detail("Only administrators may change the manifest_signing_service of a repository.")}
	errUse    = &httpError{http.StatusForbidden, detail("The repository may be signed only with a signing service that an administrator assigned to it.")}
)

// mayAssign reports whether the caller may choose any signing service for a repository that they may modify.
func (a *API) mayAssign(req *request) bool { return a.SigningUse.ByOwners || req.isStaff() }

// readService reads the field manifest_signing_service. set is false when the body lacks it; null is no service.
func (a *API) readService(req *request, b *body) (service pulp.SigningService, set bool, err error) {
	return readRelated(b, "manifest_signing_service", pulp.SigningServiceCollection, func(id string) (pulp.SigningService, error) {
		service, err := a.Store.SigningService(req.Context(), id)
		if err == nil && service.Class != pulp.ManifestSigningService {
			err = fault.New(fault.NotFound, "not of this class")
		}
		return service, err
	})
}

// readSigning reads which signing service a repository shall have and whether it shall sign on push. Callers who may not assign services may only repeat the present one.
func (a *API) readSigning(req *request, b *body, repo pulp.Repository, edit *tasks.RepositoryFields) error {
	const field = "manifest_signing_service"
	if _, set := b.values[field]; set && !a.mayAssign(req) {
		ref, _ := b.related(field, pulp.SigningServiceCollection)
		if len(b.errs[field]) == 0 && ref.ID != repo.SigningServiceID {
			return errAssign
		}
	} else if service, set, err := a.readService(req, b); err != nil {
		return err
	} else if set && (req.isStaff() || service.ID != repo.SigningServiceID) {
		by := pulp.AssignedByOwner
		switch {
		case service.ID == "":
			by = ""
		case req.isStaff():
			by = pulp.AssignedByAdmin
		}
		edit.SigningServiceID, edit.SigningAssigned = &service.ID, &by
	}
	edit.SignOnPush = b.flag("sign_on_push")
	after := repo
	edit.Apply(&after)
	if edit.SigningServiceID == nil && (edit.SignOnPush == nil || *edit.SignOnPush == repo.SignOnPush) || !after.SignOnPush {
		return nil
	}
	service, err := a.assigned(req, after)
	if err == nil && service.ID == "" {
		b.fail("sign_on_push", "A repository that signs on push needs a manifest_signing_service.")
	} else if err == nil && !a.SigningUse.Allows(after, service) {
		b.fail("sign_on_push", "A repository that signs on push needs a manifest_signing_service that an administrator assigned to it.")
	}
	return err
}

// serviceToSignWith reads with which service a repository is to be signed: the one that the body names, or else the one that is assigned to the repository. The service
// is zero where there is none. Callers who may not assign services may only use those that are assigned.
func (a *API) serviceToSignWith(req *request, b *body, repo pulp.Repository) (pulp.SigningService, error) {
	service, _, err := a.readService(req, b)
	if err != nil {
		return service, err
	}
	if v, _ := b.value("manifest_signing_service", false); v == nil || v == "" {
		if service, err = a.assigned(req, repo); err != nil || service.ID == "" {
			return service, err
		}
	}
	if !req.isStaff() && !a.SigningUse.Allows(repo, service) {
		return service, errUse
	}
	return service, nil
}

// assigned returns the signing service of a repository: its own, or else the first that the configuration assigns to it. The service is zero where there is none.
func (a *API) assigned(req *request, repo pulp.Repository) (pulp.SigningService, error) {
	if repo.SigningServiceID != "" {
		return a.Store.SigningService(req.Context(), repo.SigningServiceID)
	}
	configured := a.SigningUse.Configured(repo)
	if len(configured) == 0 {
		return pulp.SigningService{}, nil
	}
	service, err := a.Store.SigningServiceByName(req.Context(), configured[0])
	if fault.Is(err, fault.NotFound) {
		return pulp.SigningService{}, nil
	}
	return service, err
}
