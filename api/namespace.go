package api

import (
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

type namespace struct {
	object
	Name   string      `json:"name"`
	Labels pulp.Labels `json:"pulp_labels"`
}

func showNamespace(n pulp.Namespace) any {
	return namespace{objectOf(pulp.NamespaceCollection, n.ID, n.Stamps), n.Name, labelsOf(n.Labels)}
}

func (a *API) namespaces() resource[pulp.Namespace] {
	return resource[pulp.Namespace]{
		model: "ContainerNamespace", list: (*store.Store).Namespaces, show: each(showNamespace), within: visible, orderings: []string{"name"},
		filters: filterSets(identity(), names(), labelSelect()),
	}
}

func (a *API) namespaceRoutes() []route {
	return []route{
		{path: "pulp_container/namespaces/", methods: get(listOf(a, a.namespaces()))},
		{path: "pulp_container/namespaces/:id/", methods: get(readOf(a, a.namespaces()))},
	}
}
