package api

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/tasks"
)

// repository are the fields that repositories of every type have.
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

// remoteRepository is what the generic list shows: every type's fields.
type remoteRepository struct {
	repository
	Remote *string `json:"remote"`
}

type pushRepository struct {
	repository
	SigningService *string `json:"manifest_signing_service"`
	SignOnPush     bool    `json:"sign_on_push,omitempty"` // ours: Pulp has no such field
}

type containerRepository struct {
	remoteRepository
	SigningService *string `json:"manifest_signing_service"`
	SignOnPush     bool    `json:"sign_on_push,omitempty"` // ours: Pulp has no such field
	AllowShrink    bool    `json:"allow_shrink,omitempty"` // ours
}

func baseRepository(r pulp.Repository) repository {
	href := pulp.RepositoryHref(r.Type, r.ID)
	return repository{
		object: objectOf(r.Type.Collection(), r.ID, r.Stamps), VersionsHref: href + "versions/", Labels: labelsOf(r.Labels),
		LatestVersion: pulp.VersionHref(r.Type, r.ID, r.LatestVersion), Name: r.Name, Description: r.Description, RetainVersion: r.RetainRepoVersions,
	}
}

// showRepositories shows repositories of one type. The signing service is shown only to those who may modify the repository.
func showRepositories(req *request, all []pulp.Repository) ([]any, error) {
	shown := make([]any, len(all))
	for i, r := range all {
		if !mayOwn(req, r.Name) {
			r.SigningServiceID = ""
		}
		shown[i] = showRepository(r)
	}
	return shown, nil
}

// showRepository shows a repository to somebody who may modify it.
func showRepository(r pulp.Repository) any {
	service := hrefOrNil(pulp.SigningServiceCollection, r.SigningServiceID)
	if r.Type == pulp.ContainerPush {
		return pushRepository{baseRepository(r), service, r.SignOnPush}
	}
	return containerRepository{showAnyRepository(r), service, r.SignOnPush, r.AllowShrink}
}

// showAnyRepository shows the fields that repositories of every type have.
func showAnyRepository(r pulp.Repository) remoteRepository {
	return remoteRepository{baseRepository(r), hrefOrNil(pulp.RemoteCollection, r.RemoteID)}
}

// repositoryTypes are the types, each with the class that errors name.
var repositoryTypes = map[pulp.RepositoryType]string{
	pulp.ContainerPush: "ContainerPushRepository",
	pulp.Container:     "ContainerRepository",
}

var repositoryOrderings = []string{"name", "description", "next_version", "retain_repo_versions", "retain_checkpoints", "pulp_type"}

func repositoryFilters() filters {
	return filterSets(identity(), names(), labelSelect(), nullableNumbers("retain_repo_versions"), nullableNumbers("retain_checkpoints"), filters{
		"remote":              byRemote,
		"with_content":        related(func(refs []pulp.Ref) store.Filter { return store.Holding(idsOf(refs), false) }),
		"latest_with_content": related(func(refs []pulp.Ref) store.Filter { return store.Holding(idsOf(refs), true) }),
	})
}

// byRemote filters by remote: a reference, or "null" (or nothing) for repositories without one (contract 1.3).
func byRemote(a *API, req *request, name string, values []string) (store.Filter, error) {
	if v := last(values); v == "" || v == "null" {
		return store.IsNull("remote", true), nil
	}
	return relatedTo("remote")(a, req, name, values)
}

// repositories are those of one type.
func (a *API) repositories(t pulp.RepositoryType) resource[pulp.Repository] {
	return resource[pulp.Repository]{
		model: repositoryTypes[t], list: store.RepositoryList, show: showRepositories, orderings: repositoryOrderings, filters: repositoryFilters(),
		within: func(req *request) ([]store.Filter, error) {
			where, err := visible(req)
			return append(where, store.Where("pulp_type", store.Equal, t.PulpType())), err
		},
	}
}

// anyRepositories are those of every type, with the fields that all have.
func (a *API) anyRepositories() resource[pulp.Repository] {
	types := []string{pulp.Container.PulpType(), pulp.ContainerPush.PulpType()}
	byType := choice(types, func(v []string) store.Filter { return store.OneOf("pulp_type", v) })
	return resource[pulp.Repository]{
		model: "Repository", list: store.RepositoryList, within: visible, orderings: repositoryOrderings,
		show:    each(func(r pulp.Repository) any { return showAnyRepository(r) }),
		filters: filterSets(repositoryFilters(), filters{"pulp_type": byType, "pulp_type__in": byType}),
	}
}

func (a *API) repositoryRoutes() []route {
	routes := []route{{path: "repositories/", methods: get(listOf(a, a.anyRepositories()))}}
	for _, t := range slices.Sorted(maps.Keys(repositoryTypes)) {
		r, path := a.repositories(t), t.Collection()
		all := get(listOf(a, r))
		one := map[string]handler{http.MethodGet: readOf(a, r), http.MethodPut: a.editRepository(r, true), http.MethodPatch: a.editRepository(r, false)}
		if t == pulp.Container { // push repositories come and go with pushes and distributions
			all[http.MethodPost], one[http.MethodDelete] = a.createRepository, a.deleteRepository(r)
		}
		routes = append(routes, route{path: path, methods: all}, route{path: path + ":id/", methods: one})
		for name, act := range a.repositoryActions(t, r) {
			routes = append(routes, route{path: path + ":id/" + name + "/", methods: post(act)})
		}
	}
	mine := a.repositories(pulp.Container)
	routes = append(routes, labelRoutes(a, pulp.ContainerCollection, func(req *request) (pulp.Repository, error) { return a.permitted(mine, req, auth.Modify) })...)
	return routes
}

// permitted finds the repository that the path names and sees that the caller may do something to it.
func (a *API) permitted(r resource[pulp.Repository], req *request, what auth.Action) (pulp.Repository, error) {
	repo, err := one(a, r, req)
	if err == nil && !auth.Allow(req.user, what, auth.Object{Path: repo.Name, Exists: true}) {
		err = errDenied
	}
	return repo, err
}

// editRepository is PATCH and, when whole, PUT: fields that the body lacks stay as they are with both, but PUT must name the name (contract 1.5).
func (a *API) editRepository(r resource[pulp.Repository], whole bool) handler {
	return func(req *request) (answer, error) {
		repo, err := a.permitted(r, req, auth.Modify)
		if err != nil {
			return answer{}, err
		}
		b, err := req.body()
		if err != nil {
			return answer{}, err
		}
		edit, err := a.readEdit(req, b, repo, whole)
		if err != nil {
			return answer{}, err
		}
		if !changed(repo, edit.Apply) {
			return shownOne(r, req, repo)
		}
		href := pulp.RepositoryHref(repo.Type, repo.ID)
		return a.dispatch(req, "edit repository", href, tasks.Spec{
			Name: tasks.Edit, Args: tasks.EditArgs{Collection: repo.Type.Collection(), ID: repo.ID, Repository: &edit},
			Resources: []store.Resource{{Href: href, Exclusive: true}}, Immediate: true,
		})
	}
}

// readEdit reads and checks the new values of a repository's fields.
func (a *API) readEdit(req *request, b *body, repo pulp.Repository, whole bool) (tasks.RepositoryFields, error) {
	edit := tasks.RepositoryFields{
		Name:               b.text("name", whole, false).Value,
		Description:        b.text("description", false, true),
		Labels:             b.labels("pulp_labels"),
		RetainRepoVersions: b.count("retain_repo_versions"),
	}
	if b.count("retain_checkpoints").Value != nil && len(b.errs["retain_checkpoints"]) == 0 {
		b.fail("retain_checkpoints", "Checkpoints are not supported by this server.")
	}
	if repo.Type == pulp.Container {
		remote, set, err := a.readRemoteOf(req, b)
		if err != nil {
			return edit, err
		}
		if set {
			edit.RemoteID = &remote.ID
		}
		edit.AllowShrink = b.flag("allow_shrink")
	}
	if err := a.readSigning(req, b, repo, &edit); err != nil {
		return edit, err
	}
	if edit.Name != nil && *edit.Name != repo.Name && len(b.errs["name"]) == 0 {
		// The first push to a path takes the repository of that name: nobody may put one in another's way.
		if !auth.Allow(req.user, auth.Modify, auth.Object{Path: *edit.Name}) {
			return edit, errDenied
		}
		taken, _, err := a.Store.Repositories(req.Context(), store.ListQuery{Where: []store.Filter{store.Where("name", store.Equal, *edit.Name)}, Limit: 1})
		if err != nil {
			return edit, err
		}
		if len(taken) > 0 {
			b.fail("name", "This field must be unique.")
		}
	}
	return edit, b.finish()
}

// createRepository makes a repository of the general kind, at once.
func (a *API) createRepository(req *request) (answer, error) {
	b, err := req.body()
	if err != nil {
		return answer{}, err
	}
	r := pulp.Repository{Type: pulp.Container}
	fields, err := a.readEdit(req, b, r, true)
	if err != nil {
		return answer{}, err
	}
	fields.Apply(&r)
	if r, err = a.Store.CreateRepository(req.Context(), r); err != nil {
		return answer{}, err
	}
	return created(req, "create repository", showRepository(r), pulp.RepositoryHref(r.Type, r.ID)), nil
}

// deleteRepository deletes a repository with its versions; distributions that served it stay (contract 2.5.2).
func (a *API) deleteRepository(r resource[pulp.Repository]) handler {
	return func(req *request) (answer, error) {
		repo, err := a.permitted(r, req, auth.Delete)
		if err != nil {
			return answer{}, err
		}
		return a.deleteObject(req, "delete repository", repo.Type.Collection(), repo.ID)
	}
}

// reference reads a field that names another object; empty when it is null or the body lacks it.
func (b *body) reference(name string) string {
	v, _ := b.value(name, false)
	if v == nil {
		return ""
	}
	s, isText := v.(string)
	if !isText {
		b.fail(name, "Incorrect type. Expected URL string, received %s.", pythonType(v))
	}
	return s
}

// readRemoteOf reads the field remote: a remote that the caller sees. set is false when the body lacks it; null is no remote.
func (a *API) readRemoteOf(req *request, b *body) (remote pulp.Remote, set bool, err error) {
	return readRelated(b, "remote", pulp.RemoteCollection, func(id string) (pulp.Remote, error) { return seen(a, a.remotes(), req, id) })
}

// readRelated reads a field that names an object of a collection by href or PRN. set is false when the body lacks it; null is the zero value.
func readRelated[T any](b *body, name, collection string, find func(id string) (T, error)) (object T, set bool, err error) {
	_, set = b.values[name]
	ref, ok := b.related(name, collection)
	if !ok {
		return object, set, nil
	}
	object, err = find(ref.ID)
	if fault.Is(err, fault.NotFound) {
		b.fail(name, "Invalid hyperlink - Object does not exist.")
		return object, set, nil
	}
	if err != nil {
		err = fmt.Errorf("read %s: %w", name, err)
	}
	return object, set, err
}

// related reads a field that refers to an object of one of these collections. ok is false when it is null, absent or wrong.
func (b *body) related(name string, collections ...string) (ref pulp.Ref, ok bool) {
	text := b.reference(name)
	if text == "" {
		return ref, false
	}
	if u, err := url.Parse(text); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		text = u.Path
	}
	ref, ok = pulp.ParseRef(text)
	switch {
	case !ok:
		b.fail(name, "Invalid hyperlink - No URL match.")
	case !slices.Contains(collections, ref.Collection) || ref.Version >= 0: // a version is not its repository
		b.fail(name, "Invalid hyperlink - Incorrect URL match.")
		ok = false
	}
	return ref, ok
}

// seen finds an object by id among those that the caller sees.
func seen[T any](a *API, r resource[T], req *request, id string) (T, error) {
	var none T
	where, err := scope(r, req)
	if err != nil {
		return none, err
	}
	found, _, err := r.list.Rows(req.Context(), a.Store, store.ListQuery{Where: append(where, store.Where("pulp_id", store.Equal, id)), Limit: 1})
	if err == nil && len(found) == 0 {
		err = fault.New(fault.NotFound, "No %s matches the given query.", r.model)
	}
	if err != nil {
		return none, err
	}
	return found[0], nil
}

// isVersion says whether a reference names a repository version.
func isVersion(ref pulp.Ref) bool { return ref.Version >= 0 || ref.Collection == "" }

// versionNamed finds the repository version that an href or a PRN names, among those that the caller sees.
func (a *API) versionNamed(req *request, text string) (pulp.Version, error) {
	ref, err := reference(strings.TrimSpace(text))
	if err != nil {
		return pulp.Version{}, err
	}
	missing := badList("URI %s not found for repositoryversion.", text)
	if !isVersion(ref) {
		return pulp.Version{}, missing
	}
	where, err := visible(req)
	if err != nil {
		return pulp.Version{}, err
	}
	if ref.Version >= 0 {
		where = append(where, store.Where("repository", store.Equal, ref.ID), store.Where("number", store.Equal, ref.Version))
	} else {
		where = append(where, store.Where("pulp_id", store.Equal, ref.ID))
	}
	found, _, err := a.Store.Versions(req.Context(), store.ListQuery{Where: where, Limit: 1})
	if err == nil && (len(found) == 0 || ref.Version >= 0 && found[0].Type.Collection() != ref.Collection) {
		err = missing
	}
	if err != nil {
		return pulp.Version{}, err
	}
	return found[0], nil
}
