package api

import (
	"cmp"
	"net/http"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/tasks"
)

// Errors for callers that may not choose a signing service (compatibility.md#use-of-signing-services). They do not
// depend on the service, so that they reveal nothing of it.
var (
	errAssign = &reply.Error{
		Status: http.StatusForbidden,
		Body:   reply.Detail("Changing the manifest_signing_service of a repository needs a role on the signing service, such as core.signingservice_owner."),
	}
	errUse = &reply.Error{
		Status: http.StatusForbidden,
		Body:   reply.Detail("The repository may be signed only with a signing service that is assigned to it, or on which you have a role such as core.signingservice_user."),
	}
)

// readService reads the field manifest_signing_service. set is false when the body lacks it; the service is zero for
// null.
func (a *API) readService(req *request, b *body.Fields) (service pulp.SigningService, set bool, err error) {
	find := func(id string) (pulp.SigningService, error) {
		service, err := a.Store.Signatures.SigningService(req.Context(), id)
		if err == nil && service.Class != pulp.ManifestSigningService {
			err = fault.New(fault.NotFound, "No manifest signing service has this id.")
		}
		return service, err
	}
	return readRelated(b, "manifest_signing_service", pulp.SigningServiceCollection, find)
}

// readSigning reads the fields manifest_signing_service and sign_on_push of a repository into edit. A caller that may
// not assign services may repeat the present service only.
func (a *API) readSigning(req *request, b *body.Fields, repo pulp.Repository, edit *tasks.RepositoryFields) error {
	const field = "manifest_signing_service"
	ref, _ := b.Related(field, pulp.SigningServiceCollection)
	if b.Has(field) && b.Valid(field) {
		by, err := a.Access.AssignsServiceAs(req.Context(), req.caller, a.SigningUse, cmp.Or(ref.ID, repo.SigningServiceID))
		switch {
		case err != nil:
			return err
		case by == "" && ref.ID != repo.SigningServiceID:
			return errAssign
		case by != "":
			service, _, err := a.readService(req, b)
			if err != nil {
				return err
			}
			if by == pulp.AssignedByAdmin || service.ID != repo.SigningServiceID {
				if service.ID == "" {
					by = ""
				}
				edit.SigningServiceID, edit.SigningAssigned = &service.ID, &by
			}
		}
	}
	edit.SignOnPush = b.Bool("sign_on_push")
	return a.checkSignOnPush(req, b, repo, edit)
}

// checkSignOnPush checks that a repository which signs on push after an edit has a signing service that it may use. It
// checks nothing when the edit changes neither.
func (a *API) checkSignOnPush(req *request, b *body.Fields, repo pulp.Repository, edit *tasks.RepositoryFields) error {
	after := repo
	edit.Apply(&after)
	unchanged := edit.SigningServiceID == nil && (edit.SignOnPush == nil || *edit.SignOnPush == repo.SignOnPush)
	if unchanged || !after.SignOnPush {
		return nil
	}
	service, err := a.assignedService(req, after)
	if err != nil {
		return err
	}
	if service.ID == "" {
		b.Fail("sign_on_push", "A repository that signs on push needs a manifest_signing_service.")
	} else if !a.SigningUse.Allows(after, service) {
		b.Fail("sign_on_push", "A repository that signs on push needs a manifest_signing_service that an administrator assigned to it.")
	}
	return nil
}

// serviceToSignWith returns the signing service for a sign task: the one in the body, or the one assigned to the
// repository. It returns a zero service when there is neither. A caller without the permission to use the service may use
// assigned ones only.
func (a *API) serviceToSignWith(req *request, b *body.Fields, repo pulp.Repository) (pulp.SigningService, error) {
	service, _, err := a.readService(req, b)
	if err != nil {
		return service, err
	}
	if v, _ := b.Value("manifest_signing_service"); v == nil || v == "" {
		if service, err = a.assignedService(req, repo); err != nil || service.ID == "" {
			return service, err
		}
	}
	ok, err := a.Access.SignsWith(req.Context(), req.caller, a.SigningUse, repo, service)
	if err == nil && !ok {
		err = errUse
	}
	return service, err
}

// assignedService returns the signing service of a repository: its own, or the first that the configuration assigns
// to it. It returns a zero service when there is neither.
func (a *API) assignedService(req *request, repo pulp.Repository) (pulp.SigningService, error) {
	if repo.SigningServiceID != "" {
		return a.Store.Signatures.SigningService(req.Context(), repo.SigningServiceID)
	}
	configured := a.SigningUse.Configured(repo)
	if len(configured) == 0 {
		return pulp.SigningService{}, nil
	}
	service, err := a.Store.Signatures.SigningServiceByName(req.Context(), configured[0])
	if fault.Is(err, fault.NotFound) {
		return pulp.SigningService{}, nil
	}
	return service, err
}
