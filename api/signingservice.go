package api

import (
	"slices"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

type signingService struct {
	object
	Name        string `json:"name"`
	PublicKey   string `json:"public_key"`
	Fingerprint string `json:"pubkey_fingerprint"`
	Script      string `json:"script"`
}

func showSigningService(v pulp.SigningService) any {
	common := objectOf(pulp.SigningServiceCollection, v.ID, v.Stamps)
	return signingService{common, v.Name, v.PublicKey, v.Fingerprint, v.Script}
}

// signingServices are the services that the caller may view or use; a caller without any may not read the list
// (compatibility.md#signing-services).
func (a *API) signingServices() resource[pulp.SigningService] {
	return resource[pulp.SigningService]{
		model: "SigningService", form: signingService{}, list: list.ServiceList, show: showEach(showSigningService),
		orderings: []string{"name", "public_key", "pubkey_fingerprint", "script"},
		filters:   mergeFilters(identityFilters(), filters{"name": compare("name", list.Equal)}),
		within:    a.visibleServices,
	}
}

func (a *API) visibleServices(req *request) ([]list.Filter, error) {
	where, err := a.visible(req)
	if err != nil || where == nil {
		return nil, err
	}
	viewer, err := a.viewer(req)
	if err != nil || viewer.Scope(access.SigningService, access.View).All {
		return where, err
	}
	found, _, err := a.Store.Lists.SigningServices(req.Context(), list.Query{Where: where, Limit: 1})
	if err == nil && len(found) == 0 {
		err = errDenied
	}
	return where, err
}

// showsServices returns a function that reports whether the caller may view a signing service.
func (a *API) showsServices(req *request) (func(id string) bool, error) {
	viewer, err := a.viewer(req)
	if err != nil || viewer == nil {
		return func(string) bool { return true }, err
	}
	found, err := findIDs(a, req, list.ServiceList, list.Query{Where: []list.Filter{list.VisibleTo(viewer)}, Limit: maxServices})
	return func(id string) bool { return slices.Contains(found, id) }, err
}

// maxServices is the largest number of signing services whose hrefs a response shows to callers that are no administrators.
const maxServices = 1000

func (a *API) signingServiceRoutes() []route {
	return []route{
		{path: pulp.SigningServiceCollection, methods: get(listOf(a, a.signingServices()))},
		{path: pulp.SigningServiceCollection + ":id/", href: "signing_service_href", methods: get(readOf(a, a.signingServices()))},
	}
}

func serviceHrefs(all []pulp.SigningService) []string {
	ids := make([]string, len(all))
	for i, s := range all {
		ids[i] = s.ID
	}
	return hrefs(pulp.SigningServiceCollection, ids)
}
