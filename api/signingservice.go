package api

import (
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

// signingServices is for administrators only (compatibility.md#signing-services).
func (a *API) signingServices() resource[pulp.SigningService] {
	return resource[pulp.SigningService]{
		model: "SigningService", list: list.ServiceList, show: showEach(showSigningService),
		orderings: []string{"name", "public_key", "pubkey_fingerprint", "script"},
		filters:   mergeFilters(identityFilters(), filters{"name": compare("name", list.Equal)}),
		within:    func(req *request) ([]list.Filter, error) { return nil, req.requireStaff() },
	}
}

func (a *API) signingServiceRoutes() []route {
	return []route{
		{path: pulp.SigningServiceCollection, methods: get(listOf(a, a.signingServices()))},
		{path: pulp.SigningServiceCollection + ":id/", methods: get(readOf(a, a.signingServices()))},
	}
}

func serviceHrefs(all []pulp.SigningService) []string {
	ids := make([]string, len(all))
	for i, s := range all {
		ids[i] = s.ID
	}
	return hrefs(pulp.SigningServiceCollection, ids)
}
