package api

import (
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

type signingService struct {
	object
	Name        string `json:"name"`
	PublicKey   string `json:"public_key"`
	Fingerprint string `json:"pubkey_fingerprint"`
	Script      string `json:"script"`
}

func showSigningService(v pulp.SigningService) any {
	return signingService{objectOf(pulp.SigningServiceCollection, v.ID, v.Stamps), v.Name, v.PublicKey, v.Fingerprint, v.Script}
}

func (a *API) signingServices() resource[pulp.SigningService] {
	return resource[pulp.SigningService]{
		model: "SigningService", list: store.ServiceList, show: each(showSigningService),
		orderings: []string{"name", "public_key", "pubkey_fingerprint", "script"},
		filters:   filterSets(identity(), filters{"name": compare("name", store.Equal)}),
		within:    func(req *request) ([]store.Filter, error) { return nil, req.staff() }, // contract 2.4
	}
}

func (a *API) signingServiceRoutes() []route {
	return []route{
		{path: "signing-services/", methods: get(listOf(a, a.signingServices()))},
		{path: "signing-services/:id/", methods: get(readOf(a, a.signingServices()))},
	}
}
