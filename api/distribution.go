package api

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/openapi"
	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/catalog"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// badPath is the error for a path or name that no repository can have.
const badPath = "The provided registry path contains forbidden characters."

// baseDistribution holds the fields of distributions of every type.
type baseDistribution struct {
	object
	Labels            pulp.Labels     `json:"pulp_labels"`
	Name              string          `json:"name"`
	BasePath          string          `json:"base_path"`
	Hidden            bool            `json:"hidden"`
	Repository        *string         `json:"repository"`
	RepositoryVersion *string         `json:"repository_version"`
	ContentGuard      string          `json:"content_guard"`
	ContentGuardPRN   string          `json:"content_guard_prn"`
	NoChangeSince     *timestamp.Time `json:"no_content_change_since"`
}

type distribution struct {
	baseDistribution
	RegistryPath string  `json:"registry_path"`
	Remote       *string `json:"remote"`
	Namespace    string  `json:"namespace"`
	Private      bool    `json:"private"`
	Description  *string `json:"description"`
}

// genericDistribution is the form of a distribution in the list of all types.
type genericDistribution struct {
	baseDistribution
	BaseURL string `json:"base_url"`
}

func showBaseDistribution(d pulp.Distribution, guard contentGuard) baseDistribution {
	v := baseDistribution{
		object:          objectOf(d.Collection(), d.ID, d.Stamps),
		Labels:          labelsOf(d.Labels),
		Name:            d.Name,
		BasePath:        d.BasePath,
		Hidden:          d.Hidden,
		ContentGuard:    guard.Href,
		ContentGuardPRN: guard.PRN,
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

// showDistributions returns a show function for distributions, whose common fields show completes.
func (a *API) showDistributions(
	show func(baseDistribution, pulp.Distribution) any,
) func(*request, []pulp.Distribution) ([]any, error) {
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
		baseDistribution: b, RegistryPath: path, Namespace: pulp.Href(pulp.NamespaceCollection, d.NamespaceID), Private: d.Private,
		Description: d.Description, Remote: hrefOrNil(pulp.RemoteCollection, d.RemoteID),
	}
}

func distributionFilters() filters {
	return mergeFilters(identityFilters(), nameFilters(), labelFilters(), filters{
		"base_path": compare("base_path", list.Equal), "base_path__contains": compare("base_path", list.Contains),
		"base_path__icontains": compare("base_path", list.ContainsFold), "base_path__in": oneOf("base_path"),
		"repository": one(relatedTo("repository")), "repository__in": relatedTo("repository"),
		"with_content": {openapi.Text(), servingContent},
	})
}

// servingContent filters by content that a distribution serves: content of the latest version of its repository, or
// of the version that it is pinned to.
func servingContent(_ *API, _ *request, name string, values []string) (list.Filter, error) {
	texts, err := query.Split(name, values)
	if err != nil || len(texts) == 0 {
		return nil, err
	}
	ids := make([]string, len(texts))
	for i, text := range texts {
		ref, err := parseReference(text)
		if err != nil {
			return nil, err
		}
		ids[i] = ref.ID
	}
	return list.Serving(ids), nil
}

var distributionOrderings = []string{"name", "base_path", "hidden"}

func (a *API) distributions() resource[pulp.Distribution] {
	return resource[pulp.Distribution]{
		model: "ContainerDistribution", form: distribution{}, list: list.DistributionList, within: a.visible,
		object:    func(d pulp.Distribution) (access.Object, string) { return access.OfDistribution(d), d.ID },
		orderings: append([]string{"private", "description"}, distributionOrderings...),
		filters:   mergeFilters(distributionFilters(), filters{"namespace__name": compare("namespace__name", list.Equal)}),
		show: a.showDistributions(func(b baseDistribution, d pulp.Distribution) any {
			return showDistribution(b, d, a.PublicURL.Host+"/"+d.BasePath)
		}),
	}
}

func (a *API) anyDistributions() resource[pulp.Distribution] {
	return resource[pulp.Distribution]{
		model: "Distribution", form: genericDistribution{}, list: list.AnyDistributionList, within: a.visible,
		orderings: distributionOrderings, filters: distributionFilters(),
		show: a.showDistributions(func(b baseDistribution, d pulp.Distribution) any {
			return genericDistribution{b, strings.TrimSuffix(a.PublicURL.String(), "/") + contentPrefix + d.BasePath + "/"}
		}),
	}
}

func (a *API) distributionRoutes() []route {
	r := a.distributions()
	return slices.Concat([]route{
		{path: "distributions/", methods: get(listOf(a, a.anyDistributions()))},
		{path: pulp.DistributionCollection, methods: map[string]operation{
			http.MethodGet: listOf(a, r), http.MethodPost: create(a.createDistribution, distributionFields, startsTask),
		}},
		{path: pulp.DistributionCollection + ":id/", href: "container_container_distribution_href", methods: map[string]operation{
			http.MethodGet: readOf(a, r), http.MethodDelete: remove(a.deleteDistribution, startsTask),
			http.MethodPut:   update(a.editDistribution(true), distributionFields, r.edits()),
			http.MethodPatch: partialUpdate(a.editDistribution(false), distributionFields, r.edits()),
		}},
	}, labelRoutes(a, pulp.DistributionCollection, a.permittedDistribution))
}

// permittedDistribution returns the distribution that the path names, if the caller may change it.
func (a *API) permittedDistribution(req *request) (pulp.Distribution, error) {
	return permitted(a, a.distributions(), req, access.Change)
}

// requireNewPath returns an error unless the caller may create a distribution of a kind with a path.
func (a *API) requireNewPath(req *request, kind access.Kind, path string) error {
	on, err := a.Access.Load(req.Context(), req.caller, access.Object{Kind: kind, Name: path}, "")
	if err == nil && !access.MayCreatePath(req.caller, on) {
		err = errDenied
	}
	return err
}

// createDistribution checks a new distribution and starts a task that creates it (compatibility.md#distributions).
func (a *API) createDistribution(req *request) (reply.Reply, error) {
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	fields, err := a.readDistribution(req, b, pulp.Distribution{}, true)
	if err != nil {
		return reply.Reply{}, err
	}
	return a.dispatch(req, "create distribution", *fields.BasePath, tasks.Spec{
		Name: tasks.Create, Args: tasks.CreateArgs{Distribution: fields}, Immediate: true,
		Resources: []taskstore.Resource{{Href: pulp.Root + pulp.DistributionCollection, Exclusive: true}},
	})
}

// editDistribution returns the handler of PATCH or, when whole, of PUT, which requires name and base_path. It starts
// a task unless nothing changes.
func (a *API) editDistribution(whole bool) handler {
	return func(req *request) (reply.Reply, error) {
		d, err := a.permittedDistribution(req)
		if err != nil {
			return reply.Reply{}, err
		}
		b, err := body.Read(req.Request)
		if err != nil {
			return reply.Reply{}, err
		}
		fields, err := a.readDistribution(req, b, d, whole)
		if err != nil {
			return reply.Reply{}, err
		}
		if !changed(d, fields.Apply) {
			return showOne(a.distributions(), req, d)
		}
		href := pulp.Href(pulp.DistributionCollection, d.ID)
		return a.dispatch(req, "edit distribution", href, tasks.Spec{
			Name: tasks.Edit, Args: tasks.EditArgs{Collection: pulp.DistributionCollection, ID: d.ID, Distribution: &fields},
			Resources: []taskstore.Resource{{Href: href, Exclusive: true}}, Immediate: true,
		})
	}
}

// distributionFields are the fields of the bodies of distributions.
var distributionFields = body.Form{
	"name":               body.Text.Required(),
	"base_path":          body.Text.Required(),
	"repository":         body.Reference,
	"repository_version": body.Reference,
	"content_guard":      body.Reference.NotNull(),
	"private":            body.Bool,
	"hidden":             body.Bool,
	"description":        body.Text.Nullable(),
	"pulp_labels":        body.Labels,
}

// readDistribution reads and checks the fields of a distribution. Fields that the body lacks keep their values in
// old; when whole, the required ones must be present.
func (a *API) readDistribution(
	req *request, b *body.Fields, old pulp.Distribution, whole bool,
) (tasks.DistributionFields, error) {
	f := tasks.DistributionFields{
		Name:        b.Text("name", body.RequiredIf(whole)).Value,
		BasePath:    b.Text("base_path", body.RequiredIf(whole)).Value,
		Private:     b.Bool("private"),
		Hidden:      b.Bool("hidden"),
		Description: b.Text("description", body.Nullable),
		Labels:      b.Labels("pulp_labels"),
	}
	if f.BasePath != nil && b.Valid("base_path") {
		if !pulp.ValidName(*f.BasePath) {
			b.Fail("base_path", badPath)
		} else if *f.BasePath != old.BasePath {
			if err := a.requireNewPath(req, access.Distribution, *f.BasePath); err != nil {
				return f, err
			}
		}
	}
	// The first push to a path names its distribution after the path. So such a name needs the permission for the path.
	if f.Name != nil && *f.Name != old.Name && pulp.ValidName(*f.Name) {
		if err := a.requireNewPath(req, access.Distribution, *f.Name); err != nil {
			return f, err
		}
	}
	b.Ignore("registry_path", "remote", "namespace", "content_guard_prn", "no_content_change_since")
	if err := a.readServed(req, b, &f, old); err != nil {
		return f, err
	}
	if err := a.checkGuard(req, b); err != nil {
		return f, err
	}
	after := old
	f.Apply(&after)
	if b.Valid("name", "base_path") && (after.Name != old.Name || after.BasePath != old.BasePath) {
		conflict, err := a.Store.Catalog.DistributionConflict(req.Context(), after)
		if err != nil {
			return f, err
		}
		if err := noteConflict(conflict, b); err != nil {
			return f, err
		}
	}
	if b.Valid() && after.Pinned != nil && after.RepositoryID != "" {
		return f, fault.New(fault.Invalid,
			"Only one of the attributes 'repository' and 'repository_version' may be used simultaneously.")
	}
	return f, b.Finish()
}

// noteConflict notes the conflicts of a name and a path. The error for an overlapping path has a shape of its own
// (compatibility.md#distributions).
func noteConflict(conflict error, b *body.Fields) error {
	e, ok := errors.AsType[*fault.Error](conflict)
	if !ok {
		return conflict
	}
	texts, overlaps := e.Fields[catalog.OverlapField]
	switch {
	case overlaps && !b.Valid(): // Pulp checks overlaps last
		return nil
	case overlaps:
		return &reply.Error{
			Status: http.StatusBadRequest, Body: map[string]any{"base_path": map[string]string{"base_path": texts[0]}},
		}
	}
	for field, texts := range e.Fields {
		for _, text := range texts {
			b.Fail(field, "%s", text)
		}
	}
	return nil
}

// readServed reads the fields repository and repository_version. The caller must be able to change the repository,
// because pushes to the distribution's path change it, and to view that of the version.
func (a *API) readServed(req *request, b *body.Fields, f *tasks.DistributionFields, old pulp.Distribution) error {
	ref, ok := b.Related("repository", pulp.ContainerCollection, pulp.PushCollection)
	if b.Has("repository") {
		none := ""
		f.RepositoryID = &none
		t := pulp.Container
		if ref.Collection == pulp.PushCollection {
			t = pulp.ContainerPush
		}
		if ok && ref.ID == old.RepositoryID && t == old.Repository {
			f.RepositoryID = &ref.ID
		} else if ok {
			repo, err := findByID(a, a.repositories(t), req, ref.ID)
			if fault.Is(err, fault.NotFound) {
				b.Fail("repository", notExist)
			} else if err == nil {
				err = a.require(req, access.Modify, access.OfRepository(repo), repo.ID)
			}
			if err != nil && !fault.Is(err, fault.NotFound) {
				return err
			}
			f.RepositoryID = &repo.ID
		}
	}
	v, given, err := a.readVersion(req, b, "repository_version")
	f.Version = tasks.Optional[pulp.PinnedVersion]{Set: b.Has("repository_version")}
	if err != nil || !given || !b.Valid("repository_version") {
		return err
	}
	repo, err := a.Store.Catalog.Repository(req.Context(), v.Type, v.RepositoryID)
	if err == nil {
		err = a.require(req, access.View, access.OfRepository(repo), repo.ID)
	}
	if err != nil {
		return err
	}
	if v.Type == pulp.ContainerPush {
		return fault.New(fault.Invalid, "A container push repository cannot be distributed by specifying a repository version.")
	}
	f.Version.Value = &pulp.PinnedVersion{VersionID: v.ID, RepositoryID: v.RepositoryID, Number: v.Number}
	return nil
}

// otherGuards begin the hrefs of guards of types that this server does not have.
const otherGuards = pulp.Root + "contentguards/"

// checkGuard checks that the field content_guard, if present, names the only content guard.
func (a *API) checkGuard(req *request, b *body.Fields) error {
	v, set := b.Value("content_guard")
	if set && v == nil {
		b.Fail("content_guard", "This field may not be null.")
	}
	text, _ := v.(string)
	if strings.HasPrefix(text, otherGuards) && !strings.HasPrefix(text, pulp.Root+pulp.GuardCollection) {
		b.Fail("content_guard", "This server has no content guards of this type. Set private, and give roles to those who may pull.")
		return nil
	}
	ref, given := b.Related("content_guard", pulp.GuardCollection)
	if !given {
		return nil
	}
	guard, err := a.guard(req.Context())
	if err == nil && guard.Href != pulp.Href(ref.Collection, ref.ID) {
		b.Fail("content_guard", notExist)
	}
	return err
}

// deleteDistribution starts a task that deletes a distribution and, if a push created it, its repository
// (compatibility.md#deleting-distributions).
func (a *API) deleteDistribution(req *request) (reply.Reply, error) {
	d, err := permitted(a, a.distributions(), req, access.Delete)
	if err != nil {
		return reply.Reply{}, err
	}
	resources, err := a.deletedWith(req, d)
	if err != nil {
		return reply.Reply{}, err
	}
	return a.dispatch(req, "delete distribution", resources[0].Href, tasks.Spec{
		Name: tasks.DeleteDistribution, Args: tasks.ObjectArgs{Collection: pulp.DistributionCollection, ID: d.ID}, Immediate: true,
		Resources: resources,
	})
}

// deletedWith returns the resources that the deletion of a distribution reserves: the distribution, and its
// repository if a push created that.
func (a *API) deletedWith(req *request, d pulp.Distribution) ([]taskstore.Resource, error) {
	resources := []taskstore.Resource{{Href: pulp.Href(pulp.DistributionCollection, d.ID), Exclusive: true}}
	if d.RepositoryID == "" {
		return resources, nil
	}
	repo, err := a.Store.Catalog.Repository(req.Context(), d.Repository, d.RepositoryID)
	if err == nil && repo.MadeByPush {
		resources = append(resources, taskstore.Resource{Href: pulp.RepositoryHref(repo.Type, repo.ID), Exclusive: true})
	}
	if fault.Is(err, fault.NotFound) { // it was deleted in the meantime
		err = nil
	}
	return resources, err
}
