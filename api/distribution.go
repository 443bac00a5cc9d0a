package api

import (
	"errors"
	"net/http"
	"slices"
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

func showDistribution(b baseDistribution, d pulp.Distribution, path string) distribution {
	return distribution{
		baseDistribution: b, RegistryPath: path, Namespace: pulp.Href(pulp.NamespaceCollection, d.NamespaceID), Private: d.Private, Description: d.Description,
	}
}

func distributionFilters() filters {
	return filterSets(identity(), names(), labelSelect(), filters{
		"base_path": compare("base_path", store.Equal), "base_path__contains": compare("base_path", store.Contains),
		"base_path__icontains": compare("base_path", store.ContainsFold), "base_path__in": oneOf("base_path"),
		"repository": relatedTo("repository"), "repository__in": relatedTo("repository"), "with_content": servingContent,
	})
}

// servingContent filters by content that a distribution serves: in the latest version of its repository, or in the version that it is pinned to.
func servingContent(_ *API, _ *request, name string, values []string) (store.Filter, error) {
	texts, err := commaSeparated(name, values)
	if err != nil || len(texts) == 0 {
		return nil, err
	}
	ids := make([]string, len(texts))
	for i, text := range texts {
		ref, err := reference(text)
		if err != nil {
			return nil, err
		}
		ids[i] = ref.ID
	}
	return store.Serving(ids), nil
}

var distributionOrderings = []string{"name", "base_path", "hidden"}

func (a *API) distributions() resource[pulp.Distribution] {
	return resource[pulp.Distribution]{
		model: "ContainerDistribution", list: store.DistributionList, within: visible,
		orderings: append([]string{"private", "description"}, distributionOrderings...),
		filters:   filterSets(distributionFilters(), filters{"namespace__name": compare("namespace__name", store.Equal)}),
		show: a.showDistributions(func(b baseDistribution, d pulp.Distribution) any {
			return showDistribution(b, d, a.PublicURL.Host+"/"+d.BasePath)
		}),
	}
}

func (a *API) anyDistributions() resource[pulp.Distribution] {
	return resource[pulp.Distribution]{
		model: "Distribution", list: store.DistributionList, within: visible, orderings: distributionOrderings, filters: distributionFilters(),
		show: a.showDistributions(func(b baseDistribution, d pulp.Distribution) any {
			return genericDistribution{b, strings.TrimSuffix(a.PublicURL.String(), "/") + contentPrefix + d.BasePath + "/"}
		}),
	}
}

func (a *API) distributionRoutes() []route {
	r := a.distributions()
	return slices.Concat([]route{
		{path: "distributions/", methods: get(listOf(a, a.anyDistributions()))},
		{path: pulp.DistributionCollection, methods: map[string]handler{http.MethodGet: listOf(a, r), http.MethodPost: a.createDistribution}},
		{path: pulp.DistributionCollection + ":id/", methods: map[string]handler{
			http.MethodGet: readOf(a, r), http.MethodPut: a.editDistribution(true), http.MethodPatch: a.editDistribution(false), http.MethodDelete: a.deleteDistribution,
		}},
	}, labelRoutes(a, pulp.DistributionCollection, a.permittedDistribution))
}

// permittedDistribution finds the distribution that the path names and sees that the caller may change it.
func (a *API) permittedDistribution(req *request) (pulp.Distribution, error) {
	d, err := one(a, a.distributions(), req)
	if err == nil && !mayOwn(req, d.BasePath) {
		err = errDenied
	}
	return d, err
}

// createDistribution has a task make a distribution (contract 2.7). What is wrong with it is found here.
func (a *API) createDistribution(req *request) (answer, error) {
	b, err := req.body()
	if err != nil {
		return answer{}, err
	}
	fields, err := a.readDistribution(req, b, pulp.Distribution{}, true)
	if err != nil {
		return answer{}, err
	}
	return a.dispatch(req, "create distribution", *fields.BasePath, tasks.Spec{
		Name: tasks.Create, Args: tasks.CreateArgs{Distribution: fields}, Immediate: true,
		Resources: []store.Resource{{Href: pulp.Root + pulp.DistributionCollection, Exclusive: true}},
	})
}

func (a *API) editDistribution(whole bool) handler {
	return func(req *request) (answer, error) {
		d, err := a.permittedDistribution(req)
		if err != nil {
			return answer{}, err
		}
		b, err := req.body()
		if err != nil {
			return answer{}, err
		}
		fields, err := a.readDistribution(req, b, d, whole)
		if err != nil {
			return answer{}, err
		}
		if !changed(d, fields.Apply) {
			return shownOne(a.distributions(), req, d)
		}
		href := pulp.Href(pulp.DistributionCollection, d.ID)
		return a.dispatch(req, "edit distribution", href, tasks.Spec{
			Name: tasks.Edit, Args: tasks.EditArgs{Collection: pulp.DistributionCollection, ID: d.ID, Distribution: &fields},
			Resources: []store.Resource{{Href: href, Exclusive: true}}, Immediate: true,
		})
	}
}

// readDistribution reads and checks the fields of a distribution; those that the body lacks stay as they are in old. whole is whether the required ones must be there.
func (a *API) readDistribution(req *request, b *body, old pulp.Distribution, whole bool) (tasks.DistributionFields, error) {
	f := tasks.DistributionFields{
		Name: b.text("name", whole, false).Value, BasePath: b.text("base_path", whole, false).Value, Private: b.flag("private"), Hidden: b.flag("hidden"),
		Description: b.text("description", false, true), Labels: b.labels("pulp_labels"),
	}
	if f.BasePath != nil && len(b.errs["base_path"]) == 0 {
		if !pulp.ValidName(*f.BasePath) {
			b.fail("base_path", "The provided registry path contains forbidden characters.")
		} else if !mayOwn(req, *f.BasePath) {
			return f, errDenied
		}
	}
	// A name that could be a path belongs to the namespace of that path, with a slash or without: nobody may take one that another would choose.
	if f.Name != nil && *f.Name != old.Name && pulp.ValidName(*f.Name) && !mayOwn(req, *f.Name) {
		return f, errDenied
	}
	b.ignore("registry_path", "remote", "namespace", "content_guard_prn", "no_content_change_since")
	if err := a.readServed(req, b, &f, old); err != nil {
		return f, err
	}
	if err := a.readGuardOf(req, b); err != nil {
		return f, err
	}
	after := old
	f.Apply(&after)
	if len(b.errs["name"])+len(b.errs["base_path"]) == 0 && (after.Name != old.Name || after.BasePath != old.BasePath) {
		conflict, err := a.Store.DistributionConflict(req.Context(), old.ID, after.Name, after.BasePath)
		if err != nil {
			return f, err
		}
		if err := nestedConflict(conflict, b); err != nil {
			return f, err
		}
	}
	if len(b.errs) == 0 && after.Pinned != nil && after.RepositoryID != "" {
		return f, fault.New(fault.Invalid, "Only one of the attributes 'repository' and 'repository_version' may be used simultaneously.")
	}
	return f, b.finish()
}

// nestedConflict notes what stands against a name and path; an overlapping path is answered in a shape of its own (contract 2.7).
func nestedConflict(conflict error, b *body) error {
	e, ok := errors.AsType[*fault.Error](conflict)
	if !ok {
		return conflict
	}
	texts, overlaps := e.Fields[store.OverlapField]
	switch {
	case overlaps && len(b.errs) > 0: // it is the reference's last check
		return nil
	case overlaps:
		return &httpError{http.StatusBadRequest, map[string]any{"base_path": map[string]string{"base_path": texts[0]}}}
	}
	for field, texts := range e.Fields {
		for _, text := range texts {
			b.fail(field, "%s", text)
		}
	}
	return nil
}

// readServed reads what a distribution is to serve: a repository that the caller may change, because who may push to the distribution's path writes into it then, or
// one version of a repository that the caller sees.
func (a *API) readServed(req *request, b *body, f *tasks.DistributionFields, old pulp.Distribution) error {
	if _, set := b.values["repository"]; set {
		none := ""
		f.RepositoryID = &none
		if ref, ok := b.related("repository", pulp.ContainerCollection, pulp.PushCollection); ok {
			t := pulp.Container
			if ref.Collection == pulp.PushCollection {
				t = pulp.ContainerPush
			}
			repo, err := seen(a, a.repositories(t), req, ref.ID)
			if fault.Is(err, fault.NotFound) {
				b.fail("repository", "Invalid hyperlink - Object does not exist.")
			} else if err != nil {
				return err
			} else if repo.ID != old.RepositoryID && !mayOwn(req, repo.Name) {
				return errDenied
			}
			f.RepositoryID = &repo.ID
		}
	}
	if _, set := b.values["repository_version"]; !set {
		return nil
	}
	f.Version = tasks.Optional[pulp.PinnedVersion]{Set: true}
	v, given, err := a.readVersion(req, b, "repository_version")
	if err != nil || !given || len(b.errs["repository_version"]) > 0 {
		return err
	}
	if v.Type == pulp.ContainerPush {
		return fault.New(fault.Invalid, "A container push repository cannot be distributed by specifying a repository version.")
	}
	f.Version.Value = &pulp.PinnedVersion{VersionID: v.ID, RepositoryID: v.RepositoryID, Number: v.Number}
	return nil
}

// readGuardOf reads the field content_guard, which can only name the one guard that there is.
func (a *API) readGuardOf(req *request, b *body) error {
	if v, set := b.values["content_guard"]; set && v == nil {
		b.fail("content_guard", "This field may not be null.")
	}
	ref, given := b.related("content_guard", pulp.GuardCollection)
	if !given {
		return nil
	}
	guard, err := a.guard(req.Context())
	if err == nil && guard.Href != pulp.Href(ref.Collection, ref.ID) {
		b.fail("content_guard", "Invalid hyperlink - Object does not exist.")
	}
	return err
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
	resources, err := a.goesWith(req, d)
	if err != nil {
		return answer{}, err
	}
	return a.dispatch(req, "delete distribution", resources[0].Href, tasks.Spec{
		Name: tasks.DeleteDistribution, Args: tasks.ObjectArgs{Collection: pulp.DistributionCollection, ID: d.ID}, Resources: resources, Immediate: true,
	})
}

// goesWith returns what a task reserves that deletes a distribution: the distribution, and the repository that a push made for it.
func (a *API) goesWith(req *request, d pulp.Distribution) ([]store.Resource, error) {
	resources := []store.Resource{{Href: pulp.Href(pulp.DistributionCollection, d.ID), Exclusive: true}}
	if d.RepositoryID == "" {
		return resources, nil
	}
	repo, err := a.Store.Repository(req.Context(), d.Repository, d.RepositoryID)
	if err == nil && repo.MadeByPush {
		resources = append(resources, store.Resource{Href: pulp.RepositoryHref(repo.Type, repo.ID), Exclusive: true})
	}
	if fault.Is(err, fault.NotFound) { // it went just now
		err = nil
	}
	return resources, err
}
