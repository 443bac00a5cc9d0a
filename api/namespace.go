package api

import (
	"net/http"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/tasks"
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
		model: "ContainerNamespace", list: store.NamespaceList, show: each(showNamespace), within: visible, orderings: []string{"name"},
		filters: filterSets(identity(), names(), labelSelect()),
	}
}

func (a *API) namespaceRoutes() []route {
	return []route{
		{path: pulp.NamespaceCollection, methods: map[string]handler{http.MethodGet: listOf(a, a.namespaces()), http.MethodPost: a.createNamespace}},
		{path: pulp.NamespaceCollection + ":id/", methods: map[string]handler{http.MethodGet: readOf(a, a.namespaces()), http.MethodDelete: a.deleteNamespace}},
	}
}

// createNamespace makes a namespace, at once: staff any, others that of their own name.
func (a *API) createNamespace(req *request) (answer, error) {
	b, err := req.body()
	if err != nil {
		return answer{}, err
	}
	n := pulp.Namespace{}
	name, labels := b.text("name", true, false).Value, b.labels("pulp_labels")
	if name != nil && len(b.errs["name"]) == 0 {
		n.Name = *name
		if strings.Contains(*name, "/") || !pulp.ValidName(*name) {
			b.fail("name", "The provided registry path contains forbidden characters.")
		} else if !mayOwn(req, *name) {
			return answer{}, errDenied
		}
	}
	if labels != nil {
		n.Labels = *labels
	}
	if err := b.finish(); err != nil {
		return answer{}, err
	}
	if n, err = a.Store.CreateNamespace(req.Context(), n); err != nil {
		return answer{}, err
	}
	return created(req, "create namespace", showNamespace(n), pulp.Href(pulp.NamespaceCollection, n.ID)), nil
}

// deleteNamespace deletes a namespace with its distributions, and their repositories where pushes made them (contract 2.9, D8).
func (a *API) deleteNamespace(req *request) (answer, error) {
	n, err := one(a, a.namespaces(), req)
	if err == nil && !mayOwn(req, n.Name) {
		err = errDenied
	}
	if err != nil {
		return answer{}, err
	}
	own, _, err := a.Store.Distributions(req.Context(), store.ListQuery{
		Where: []store.Filter{store.Where("namespace", store.Equal, n.ID)}, Limit: maxDistributions,
	})
	if err != nil {
		return answer{}, err
	}
	href := pulp.Href(pulp.NamespaceCollection, n.ID)
	resources := []store.Resource{{Href: href, Exclusive: true}}
	for _, d := range own {
		gone, err := a.goesWith(req, d)
		if err != nil {
			return answer{}, err
		}
		resources = append(resources, gone...)
	}
	slices.SortFunc(resources, func(x, y store.Resource) int { return strings.Compare(x.Href, y.Href) })
	resources = slices.Compact(resources) // two distributions may have one repository
	return a.dispatch(req, "delete namespace", href, tasks.Spec{
		Name: tasks.Delete, Args: tasks.ObjectArgs{Collection: pulp.NamespaceCollection, ID: n.ID}, Resources: resources, Immediate: true,
	})
}
