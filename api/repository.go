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
}

type containerRepository struct {
	remoteRepository
	SigningService *string `json:"manifest_signing_service"`
}

func baseRepository(r pulp.Repository) repository {
	href := pulp.RepositoryHref(r.Type, r.ID)
	return repository{
		object: objectOf(r.Type.Collection(), r.ID, r.Stamps), VersionsHref: href + "versions/", Labels: labelsOf(r.Labels),
		LatestVersion: pulp.VersionHref(r.Type, r.ID, r.LatestVersion), Name: r.Name, Description: r.Description, RetainVersion: r.RetainRepoVersions,
	}
}

func showRepository(r pulp.Repository) any {
	service := hrefOrNil(pulp.SigningServiceCollection, r.SigningServiceID)
	if r.Type == pulp.ContainerPush {
		return pushRepository{baseRepository(r), service}
	}
	return containerRepository{remoteRepository{repository: baseRepository(r)}, service}
}

// repositoryTypes are the types, each with the class that errors name.
var repositoryTypes = map[pulp.RepositoryType]string{
	pulp.ContainerPush: "ContainerPushRepository",
	pulp.Container:     "ContainerRepository",
}

var repositoryOrderings = []string{"name", "description", "next_version", "retain_repo_versions", "retain_checkpoints", "pulp_type"}

func repositoryFilters() filters {
	return filterSets(identity(), names(), labelSelect(), nullableNumbers("retain_repo_versions"), nullableNumbers("retain_checkpoints"), filters{
		"remote":              noRemote,
		"with_content":        related(func(refs []pulp.Ref) store.Filter { return store.Holding(idsOf(refs), false) }),
		"latest_with_content": related(func(refs []pulp.Ref) store.Filter { return store.Holding(idsOf(refs), true) }),
	})
}

// noRemote filters by remote. No repository has one yet: "null", or nothing, finds all and a reference none.
func noRemote(a *API, req *request, name string, values []string) (store.Filter, error) {
	if v := last(values); v == "" || v == "null" {
		return nil, nil
	}
	return never(a, req, name, values)
}

// repositories are those of one type.
func (a *API) repositories(t pulp.RepositoryType) resource[pulp.Repository] {
	return resource[pulp.Repository]{
		model: repositoryTypes[t], list: (*store.Store).Repositories, show: each(showRepository), orderings: repositoryOrderings, filters: repositoryFilters(),
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
		model: "Repository", list: (*store.Store).Repositories, within: visible, orderings: repositoryOrderings,
		show:    each(func(r pulp.Repository) any { return remoteRepository{repository: baseRepository(r)} }),
		filters: filterSets(repositoryFilters(), filters{"pulp_type": byType, "pulp_type__in": byType}),
	}
}

func (a *API) repositoryRoutes() []route {
	routes := []route{{path: "repositories/", methods: get(listOf(a, a.anyRepositories()))}}
	for _, t := range slices.Sorted(maps.Keys(repositoryTypes)) {
		r, path := a.repositories(t), t.Collection()
		routes = append(routes,
			route{path: path, methods: get(listOf(a, r))},
			route{path: path + ":id/", methods: map[string]handler{
				http.MethodGet: readOf(a, r), http.MethodPut: a.editRepository(r, true), http.MethodPatch: a.editRepository(r, false),
			}},
			route{path: path + ":id/sign/", methods: map[string]handler{http.MethodPost: a.sign(r)}},
		)
	}
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
		if !changes(repo, edit) {
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
	if repo.Type == pulp.Container && b.reference("remote") != "" {
		b.fail("remote", "Invalid hyperlink - Object does not exist.")
	}
	service, set, err := a.readService(req, b)
	if err != nil {
		return edit, err
	}
	if set {
		edit.SigningServiceID = &service.ID
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

// readService reads the field manifest_signing_service. set is false when the body lacks it; null is no service.
func (a *API) readService(req *request, b *body) (service pulp.SigningService, set bool, err error) {
	const name = "manifest_signing_service"
	_, set = b.values[name]
	text := b.reference(name)
	if text == "" {
		return pulp.SigningService{}, set, nil
	}
	if u, err := url.Parse(text); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		text = u.Path
	}
	ref, known := pulp.ParseRef(text)
	switch {
	case !known:
		b.fail(name, "Invalid hyperlink - No URL match.")
		return service, set, nil
	case ref.Collection != pulp.SigningServiceCollection:
		b.fail(name, "Invalid hyperlink - Incorrect URL match.")
		return service, set, nil
	}
	service, err = a.Store.SigningService(req.Context(), ref.ID)
	if fault.Is(err, fault.NotFound) || err == nil && service.Class != pulp.ManifestSigningService {
		b.fail(name, "Invalid hyperlink - Object does not exist.")
		return pulp.SigningService{}, set, nil
	}
	if err != nil {
		err = fmt.Errorf("read signing service: %w", err)
	}
	return service, set, err
}

// changes says whether an edit asks for anything that is not so already.
func changes(r pulp.Repository, e tasks.RepositoryFields) bool {
	return e.Name != nil && *e.Name != r.Name ||
		e.Description.Set && !same(e.Description.Value, r.Description) ||
		e.RetainRepoVersions.Set && !same(e.RetainRepoVersions.Value, r.RetainRepoVersions) ||
		e.SigningServiceID != nil && *e.SigningServiceID != r.SigningServiceID ||
		e.Labels != nil && !maps.EqualFunc(*e.Labels, r.Labels, same[string])
}

func same[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
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
