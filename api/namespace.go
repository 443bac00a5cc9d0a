package api

import (
	"net/http"
	"slices"
	"strings"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/taskstore"
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
		model: "ContainerNamespace", form: namespace{}, list: list.NamespaceList, show: showEach(showNamespace), within: a.visible,
		orderings: []string{"name"},
		filters:   mergeFilters(identityFilters(), nameFilters(), labelFilters()),
		// Lists show namespaces that the caller may view, among them those with public distributions.
		object: func(n pulp.Namespace) (access.Object, string) { return access.OfNamespace(n, true), n.ID },
	}
}

func (a *API) namespaceRoutes() []route {
	r := a.namespaces()
	return []route{
		{path: pulp.NamespaceCollection, methods: map[string]operation{
			http.MethodGet:  listOf(a, r),
			http.MethodPost: create(a.createNamespace, body.Form{"name": body.Text.Required(), "pulp_labels": body.Labels}, r.creates()),
		}},
		{path: pulp.NamespaceCollection + ":id/", href: "container_container_namespace_href", methods: map[string]operation{
			http.MethodGet: readOf(a, r), http.MethodDelete: remove(a.deleteNamespace, startsTask),
		}},
	}
}

// createNamespace creates a namespace without a task. A local user may create the namespace with the user's own name.
func (a *API) createNamespace(req *request) (reply.Reply, error) {
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	n := pulp.Namespace{}
	name, labels := b.Text("name", body.Required).Value, b.Labels("pulp_labels")
	if name != nil && b.Valid("name") {
		n.Name = *name
		if strings.Contains(*name, "/") || !pulp.ValidName(*name) {
			b.Fail("name", badPath)
		} else if err := a.require(req, access.Create, access.Object{Kind: access.Namespace, Name: *name}, ""); err != nil {
			return reply.Reply{}, err
		}
	}
	if labels != nil {
		n.Labels = *labels
	}
	if err := b.Finish(); err != nil {
		return reply.Reply{}, err
	}
	if n, err = a.Store.Catalog.CreateNamespace(req.Context(), n, req.caller.Owner()); err != nil {
		return reply.Reply{}, err
	}
	return created(req, "create namespace", showNamespace(n), pulp.Href(pulp.NamespaceCollection, n.ID)), nil
}

// deleteNamespace starts a task that deletes a namespace with its distributions and the repositories that pushes
// created for them (compatibility.md#namespaces).
func (a *API) deleteNamespace(req *request) (reply.Reply, error) {
	n, err := permitted(a, a.namespaces(), req, access.Delete)
	if err != nil {
		return reply.Reply{}, err
	}
	own, _, err := a.Store.Lists.Distributions(req.Context(), list.Query{
		Where: []list.Filter{list.Where("namespace", list.Equal, n.ID)}, Limit: maxDistributions,
	})
	if err != nil {
		return reply.Reply{}, err
	}
	href := pulp.Href(pulp.NamespaceCollection, n.ID)
	resources := []taskstore.Resource{{Href: href, Exclusive: true}}
	for _, d := range own {
		deleted, err := a.deletedWith(req, d)
		if err != nil {
			return reply.Reply{}, err
		}
		resources = append(resources, deleted...)
	}
	slices.SortFunc(resources, func(x, y taskstore.Resource) int { return strings.Compare(x.Href, y.Href) })
	resources = slices.Compact(resources) // two distributions can have the same repository
	return a.dispatch(req, "delete namespace", href, tasks.Spec{
		Name: tasks.Delete, Args: tasks.ObjectArgs{Collection: pulp.NamespaceCollection, ID: n.ID}, Immediate: true,
		Resources: resources,
	})
}
