package api

import (
	"net/http"
	"strings"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/tasks"
)

// baseDistribution are the fields that distributions of every type have.
type baseDistribution struct {
	object
	Labels            pulp.Labels `json:"pulp_labels"`
	Name              string      `json:"name"`
	BasePath          string      `json:"base_path"`
	Hidden            bool        `json:"hidden"`
	Repository        *string     `json:"repository"`
	RepositoryVersion *string     `json:"repository_version"`
	ContentGuard      string      `json:"content_guard"`
	ContentGuardPRN   string      `json:"content_guard_prn"`
	NoChangeSince     *stamp      `json:"no_content_change_since"`
}

type distribution struct {
	baseDistribution
	RegistryPath string  `json:"registry_path"`
	Remote       *string `json:"remote"`
	Namespace    string  `json:"namespace"`
	Private      bool    `json:"private"`
	Description  *string `json:"description"`
}

// genericDistribution is what the list of every type shows.
type genericDistribution struct {
	baseDistribution
	BaseURL string `json:"base_url"`
}

func showBaseDistribution(d pulp.Distribution, guard contentGuard) baseDistribution {
	v := baseDistribution{
		object: objectOf(pulp.DistributionCollection, d.ID, d.Stamps), Labels: labelsOf(d.Labels), Name: d.Name, BasePath: d.BasePath, Hidden: d.Hidden,
		ContentGuard: guard.Href, ContentGuardPRN: guard.PRN,
	}
	if d.RepositoryID != "" {
		href := pulp.RepositoryHref(d.Repository, d.RepositoryID)
		v.Repository = &href
	}
	if d.Pinned != nil {
		href := pulp.VersionHref(d.Repository, d.Pinned.RepositoryID, d.Pinned.Number)
		v.RepositoryVersion = &href
	}
	return v
}

func (a *API) showDistributions(show func(baseDistribution, pulp.Distribution) any) func(*request, []pulp.Distribution) ([]any, error) {
	return func(req *request, all []pulp.Distribution) ([]any, error) {
		guard, err := a.guard(req.Context())
		if err != nil {
			return nil, err
		}
		shown := make([]any, len(all))
		for i, d := range all {
			shown[i] = show(showBaseDistribution(d, guard), d)
		}
		return shown, nil
	}
}

func distributionFilters() filters {
	return filterSets(identity(), names(), labelSelect(), filters{
		"base_path": compare("base_path", store.Equal), "base_path__contains": compare("base_path", store.Contains),
		"base_path__icontains": compare("base_path", store.ContainsFold), "base_path__in": oneOf("base_path"),
		"repository": relatedTo("repository"), "repository__in": relatedTo("repository"),
	})
}

var distributionOrderings = []string{"name", "base_path", "hidden"}

func (a *API) distributions() resource[pulp.Distribution] {
	return resource[pulp.Distribution]{
		model: "ContainerDistribution", list: (*store.Store).Distributions, within: visible,
		orderings: append([]string{"private", "description"}, distributionOrderings...),
		filters:   filterSets(distributionFilters(), filters{"namespace__name": compare("namespace__name", store.Equal)}),
		show: a.showDistributions(func(b baseDistribution, d pulp.Distribution) any {
			return distribution{
				baseDistribution: b, RegistryPath: a.PublicURL.Host + "/" + d.BasePath,
				Namespace: pulp.Href(pulp.NamespaceCollection, d.NamespaceID), Private: d.Private, Description: d.Description,
			}
		}),
	}
}

func (a *API) anyDistributions() resource[pulp.Distribution] {
	return resource[pulp.Distribution]{
		model: "Distribution", list: (*store.Store).Distributions, within: visible, orderings: distributionOrderings, filters: distributionFilters(),
		show: a.showDistributions(func(b baseDistribution, d pulp.Distribution) any {
			return genericDistribution{b, strings.TrimSuffix(a.PublicURL.String(), "/") + contentPrefix + d.BasePath + "/"}
		}),
	}
}

func (a *API) distributionRoutes() []route {
	r := a.distributions()
	return []route{
		{path: "distributions/", methods: get(listOf(a, a.anyDistributions()))},
		{path: pulp.DistributionCollection, methods: get(listOf(a, r))},
		{path: pulp.DistributionCollection + ":id/", methods: map[string]handler{http.MethodGet: readOf(a, r), http.MethodDelete: a.deleteDistribution}},
	}
}

// deleteDistribution deletes a distribution and, when a push made it, its repository (D8), which the task reserves too.
func (a *API) deleteDistribution(req *request) (answer, error) {
	d, err := one(a, a.distributions(), req)
	if err != nil {
		return answer{}, err
	}
	if !auth.Allow(req.user, auth.Delete, auth.Object{Path: d.BasePath, Private: d.Private, Exists: true}) {
		return answer{}, errDenied
	}
	href := pulp.Href(pulp.DistributionCollection, d.ID)
	resources := []store.Resource{{Href: href, Exclusive: true}}
	if d.RepositoryID != "" {
		repo, err := a.Store.Repository(req.Context(), d.Repository, d.RepositoryID)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return answer{}, err
		}
		if err == nil && repo.MadeByPush {
			resources = append(resources, store.Resource{Href: pulp.RepositoryHref(repo.Type, repo.ID), Exclusive: true})
		}
	}
	return a.dispatch(req, "delete distribution", href, tasks.Spec{
		Name: tasks.DeleteDistribution, Args: tasks.ObjectArgs{Collection: pulp.DistributionCollection, ID: d.ID}, Resources: resources, Immediate: true,
	})
}
