package api

import (
	"maps"
	"net/http"
	"slices"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/openapi"
	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

// repository holds the fields of repositories of every type.
type repository struct {
	object
	VersionsHref  string      `json:"versions_href"`
	Labels        pulp.Labels `json:"pulp_labels"`
	LatestVersion string      `json:"latest_version_href"`
	Name          string      `json:"name"`
	Description   *string     `json:"description"`
	RetainVersion *int64      `json:"retain_repo_versions"`
	Checkpoints   *int64      `json:"retain_checkpoints"` // always null here
}

// remoteRepository is the form of a repository in the list of all types.
type remoteRepository struct {
	repository
	Remote *string `json:"remote"`
}

type pushRepository struct {
	repository
	SigningService *string `json:"manifest_signing_service"`
	SignOnPush     bool    `json:"sign_on_push,omitempty"` // a field of our own
}

type containerRepository struct {
	remoteRepository
	SigningService *string `json:"manifest_signing_service"`
	SignOnPush     bool    `json:"sign_on_push,omitempty"` // a field of our own
	AllowShrink    bool    `json:"allow_shrink,omitempty"` // a field of our own
}

func baseRepository(r pulp.Repository) repository {
	href := pulp.RepositoryHref(r.Type, r.ID)
	return repository{
		object:        objectOf(r.Type.Collection(), r.ID, r.Stamps),
		VersionsHref:  href + "versions/",
		Labels:        labelsOf(r.Labels),
		LatestVersion: pulp.VersionHref(r.Type, r.ID, r.LatestVersion),
		Name:          r.Name,
		Description:   r.Description,
		RetainVersion: r.RetainRepoVersions,
	}
}

// showRepositories returns the JSON forms of repositories of one type. It shows the signing service only to callers
// that may change the repository.
func (a *API) showRepositories(req *request, all []pulp.Repository) ([]any, error) {
	viewer, err := a.viewer(req)
	if err != nil {
		return nil, err
	}
	var changeable []string
	if viewer != nil {
		ids := make([]string, len(all))
		for i, r := range all {
			ids[i] = r.ID
		}
		changeable, err = findIDs(a, req, list.RepositoryList, list.Query{Limit: len(ids), Where: []list.Filter{
			list.OneOf("pulp_id", ids), list.Permitted(viewer, access.Repository, access.Change),
		}})
		if err != nil {
			return nil, err
		}
	}
	shown := make([]any, len(all))
	for i, r := range all {
		if viewer != nil && !slices.Contains(changeable, r.ID) {
			r.SigningServiceID = ""
		}
		shown[i] = showRepository(r)
	}
	return shown, nil
}

// showRepository returns the JSON form of a repository for a caller that may change it.
func showRepository(r pulp.Repository) any {
	service := hrefOrNil(pulp.SigningServiceCollection, r.SigningServiceID)
	if r.Type == pulp.ContainerPush {
		return pushRepository{baseRepository(r), service, r.SignOnPush}
	}
	return containerRepository{showAnyRepository(r), service, r.SignOnPush, r.AllowShrink}
}

// showAnyRepository returns the JSON form of a repository in the list of all types.
func showAnyRepository(r pulp.Repository) remoteRepository {
	return remoteRepository{baseRepository(r), hrefOrNil(pulp.RemoteCollection, r.RemoteID)}
}

// repositoryTypes are the types of repositories.
var repositoryTypes = map[pulp.RepositoryType]struct {
	model  string // Pulp's class, which errors name
	href   string
	form   any
	fields body.Form
}{
	pulp.ContainerPush: {
		"ContainerPushRepository", "container_container_push_repository_href", pushRepository{}, repositoryFields,
	},
	pulp.Container: {
		"ContainerRepository", "container_container_repository_href", containerRepository{},
		repositoryFields.With(body.Form{"remote": body.Reference, "allow_shrink": body.Bool}),
	},
}

// repositoryFields are the fields of the bodies of repositories of every type.
var repositoryFields = body.Form{
	"name":                     body.Text.Required(),
	"description":              body.Text.Nullable(),
	"pulp_labels":              body.Labels,
	"retain_repo_versions":     body.Count,
	"retain_checkpoints":       body.Count,
	"manifest_signing_service": body.Reference,
	"sign_on_push":             body.Bool,
}

var repositoryOrderings = []string{
	"name", "description", "next_version", "retain_repo_versions", "retain_checkpoints", "pulp_type",
}

func repositoryFilters() filters {
	numbers := mergeFilters(nullableNumberFilters("retain_repo_versions"), nullableNumberFilters("retain_checkpoints"))
	return mergeFilters(identityFilters(), nameFilters(), labelFilters(), numbers, filters{
		"remote":              {openapi.Text(), byRemote},
		"with_content":        one(related(func(refs []pulp.Ref) list.Filter { return list.Holding(idsOf(refs), false) })),
		"latest_with_content": one(related(func(refs []pulp.Ref) list.Filter { return list.Holding(idsOf(refs), true) })),
	})
}

// byRemote filters by remote: a reference, or "null" or an empty text for repositories without one
// (compatibility.md#lists).
func byRemote(a *API, req *request, name string, values []string) (list.Filter, error) {
	if v := query.Last(values); v == "" || v == "null" {
		return list.IsNull("remote", true), nil
	}
	return relatedTo("remote").parse(a, req, name, values)
}

func objectOfRepository(r pulp.Repository) (access.Object, string) {
	return access.OfRepository(r), r.ID
}

// repositories are the repositories of one type.
func (a *API) repositories(t pulp.RepositoryType) resource[pulp.Repository] {
	return resource[pulp.Repository]{
		model: repositoryTypes[t].model, form: repositoryTypes[t].form, list: list.RepositoryList, show: a.showRepositories, object: objectOfRepository,
		orderings: repositoryOrderings, filters: repositoryFilters(),
		within: func(req *request) ([]list.Filter, error) {
			where, err := a.visible(req)
			return append(where, list.Where("type", list.Equal, string(t))), err
		},
	}
}

// anyRepositories are the repositories of all types.
func (a *API) anyRepositories() resource[pulp.Repository] {
	types := []string{pulp.Container.PulpType(), pulp.ContainerPush.PulpType()}
	byType := choice(types, func(v []string) list.Filter { return list.OneOf("pulp_type", v) })
	return resource[pulp.Repository]{
		model: "Repository", form: remoteRepository{}, list: list.RepositoryList, within: a.visible, orderings: repositoryOrderings,
		show:    showEach(func(r pulp.Repository) any { return showAnyRepository(r) }),
		filters: mergeFilters(repositoryFilters(), filters{"pulp_type": one(byType), "pulp_type__in": byType}),
	}
}

func (a *API) repositoryRoutes() []route {
	routes := []route{{path: "repositories/", methods: get(listOf(a, a.anyRepositories()))}}
	for _, t := range slices.Sorted(maps.Keys(repositoryTypes)) {
		r, path, fields := a.repositories(t), t.Collection(), repositoryTypes[t].fields
		all := get(listOf(a, r))
		one := map[string]operation{
			http.MethodGet:   readOf(a, r),
			http.MethodPut:   update(a.editRepository(r, true), fields, r.edits()),
			http.MethodPatch: partialUpdate(a.editRepository(r, false), fields, r.edits()),
		}
		if t == pulp.Container { // push repositories are created by pushes and deleted with their distributions
			all[http.MethodPost] = create(a.createRepository, fields, r.creates())
			one[http.MethodDelete] = remove(a.deleteRepository(r), startsTask)
		}
		routes = append(routes, route{path: path, methods: all},
			route{path: path + ":id/", href: repositoryTypes[t].href, methods: one})
		for name, act := range a.repositoryActions(t, r) {
			routes = append(routes, route{path: path + ":id/" + name + "/", methods: post(act)})
		}
	}
	container := a.repositories(pulp.Container)
	return append(routes, labelRoutes(a, pulp.ContainerCollection, func(req *request) (pulp.Repository, error) {
		return permitted(a, container, req, access.Change)
	})...)
}

// editRepository returns the handler of PATCH or, when whole, of PUT, which requires the name. With both, fields that
// the body lacks keep their values (compatibility.md#writes). It starts a task unless nothing changes.
func (a *API) editRepository(r resource[pulp.Repository], whole bool) handler {
	return func(req *request) (reply.Reply, error) {
		repo, err := permitted(a, r, req, access.Change)
		if err != nil {
			return reply.Reply{}, err
		}
		b, err := body.Read(req.Request)
		if err != nil {
			return reply.Reply{}, err
		}
		edit, err := a.readRepository(req, b, repo, whole)
		if err != nil {
			return reply.Reply{}, err
		}
		if !changed(repo, edit.Apply) {
			return showOne(r, req, repo)
		}
		href := pulp.RepositoryHref(repo.Type, repo.ID)
		return a.dispatch(req, "edit repository", href, tasks.Spec{
			Name: tasks.Edit, Args: tasks.EditArgs{Collection: repo.Type.Collection(), ID: repo.ID, Repository: &edit},
			Resources: []taskstore.Resource{{Href: href, Exclusive: true}}, Immediate: true,
		})
	}
}

// readRepository reads and checks the fields of a repository. Fields that the body lacks keep their values in repo;
// when whole, the name must be present.
func (a *API) readRepository(
	req *request, b *body.Fields, repo pulp.Repository, whole bool,
) (tasks.RepositoryFields, error) {
	edit := tasks.RepositoryFields{
		Name:               b.Text("name", body.RequiredIf(whole)).Value,
		Description:        b.Text("description", body.Nullable),
		Labels:             b.Labels("pulp_labels"),
		RetainRepoVersions: b.Count("retain_repo_versions"),
	}
	if b.Count("retain_checkpoints").Value != nil && b.Valid("retain_checkpoints") {
		b.Fail("retain_checkpoints", "Checkpoints are not supported by this server.")
	}
	if repo.Type == pulp.Container {
		remote, set, err := a.readRemoteField(req, b)
		if err != nil {
			return edit, err
		}
		if set {
			edit.RemoteID = &remote.ID
		}
		edit.AllowShrink = b.Bool("allow_shrink")
	}
	if err := a.readSigning(req, b, repo, &edit); err != nil {
		return edit, err
	}
	if edit.Name != nil && *edit.Name != repo.Name && b.Valid("name") {
		// The first push to a path can use the repository of that name.
		on := access.Object{Kind: access.Repository, Name: *edit.Name, Push: repo.Type == pulp.ContainerPush}
		if err := a.require(req, access.Create, on, ""); err != nil {
			return edit, err
		}
		taken, _, err := a.Store.Lists.Repositories(req.Context(), list.Query{
			Where: []list.Filter{list.Where("name", list.Equal, *edit.Name)}, Limit: 1,
		})
		if err != nil {
			return edit, err
		}
		if len(taken) > 0 {
			b.Fail("name", "This field must be unique.")
		}
	}
	return edit, b.Finish()
}

// createRepository creates a repository of type container without a task.
func (a *API) createRepository(req *request) (reply.Reply, error) {
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	r := pulp.Repository{Type: pulp.Container}
	fields, err := a.readRepository(req, b, r, true)
	if err != nil {
		return reply.Reply{}, err
	}
	fields.Apply(&r)
	if r, err = a.Store.Catalog.CreateRepository(req.Context(), r, req.caller.Owner()); err != nil {
		return reply.Reply{}, err
	}
	return created(req, "create repository", showRepository(r), pulp.RepositoryHref(r.Type, r.ID)), nil
}

// deleteRepository returns the handler that starts a task which deletes a repository with its versions. Its
// distributions remain (compatibility.md#container-repositories).
func (a *API) deleteRepository(r resource[pulp.Repository]) handler {
	return func(req *request) (reply.Reply, error) {
		repo, err := permitted(a, r, req, access.Delete)
		if err != nil {
			return reply.Reply{}, err
		}
		return a.deleteObject(req, "delete repository", repo.Type.Collection(), repo.ID)
	}
}
