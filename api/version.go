package api

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/tasks"
)

type version struct {
	object
	Number      int64   `json:"number"`
	Repository  string  `json:"repository"`
	BaseVersion *string `json:"base_version"`
	Summary     summary `json:"content_summary"`
	VulnReport  string  `json:"vuln_report"`
}

// summary counts a version's content by kind; kinds of which there is none are left out (contract 2.5.3).
type summary struct {
	Added   map[string]counted `json:"added"`
	Removed map[string]counted `json:"removed"`
	Present map[string]counted `json:"present"`
}

type counted struct {
	Count int64  `json:"count"`
	Href  string `json:"href"`
}

func showVersion(v pulp.Version) any {
	href := pulp.VersionHref(v.Type, v.RepositoryID, v.Number)
	s := summary{map[string]counted{}, map[string]counted{}, map[string]counted{}}
	for _, kind := range pulp.Kinds {
		list := pulp.Root + kind.Collection() + "?repository_version"
		put := func(into map[string]counted, n int64, relation string) {
			if n > 0 {
				into[kind.String()] = counted{n, list + relation + "=" + href}
			}
		}
		n := v.Counts[kind]
		put(s.Present, n.Present, "")
		put(s.Added, n.Added, "_added")
		put(s.Removed, n.Removed, "_removed")
	}
	prn := pulp.VersionPRN(v.ID)
	return version{
		object: object{href, prn, stamp(v.Created), stamp(v.Updated)}, Number: v.Number, Repository: pulp.RepositoryHref(v.Type, v.RepositoryID),
		Summary: s, VulnReport: pulp.Root + "vuln_report/?repo_versions=" + prn,
	}
}

func versionFilters() filters {
	holding := related(func(refs []pulp.Ref) store.Filter { return store.VersionHolding(idsOf(refs)) })
	return filterSets(numbers("number"), dates("pulp_created"), filters{
		"content": holding, "content__in": holding, "prn__in": identity()["prn__in"],
		"pulp_href__in": related(func(refs []pulp.Ref) store.Filter {
			named := make([]store.VersionName, len(refs))
			for i, r := range refs {
				named[i] = store.VersionName{RepositoryID: r.ID, Number: r.Version}
			}
			return store.VersionsNamed(named)
		}),
	})
}

// versions are those of one repository of a type.
func (a *API) versions(t pulp.RepositoryType) resource[pulp.Version] {
	return resource[pulp.Version]{
		model: "RepositoryVersion", list: store.VersionList, show: each(showVersion), filters: versionFilters(),
		orderings: []string{"number"}, order: []store.Order{{Field: "number", Desc: true}},
		within: func(req *request) ([]store.Filter, error) {
			repo, err := one(a, a.repositories(t), req)
			return []store.Filter{store.Where("repository", store.Equal, repo.ID)}, err
		},
		key: func(req *request) (store.Filter, error) {
			n, err := strconv.ParseInt(req.param("number"), 10, 64)
			if err != nil || n < 0 || strings.HasPrefix(req.param("number"), "+") {
				return nil, errNotFound
			}
			return store.Where("number", store.Equal, n), nil
		},
	}
}

// anyVersions are those of all repositories.
func (a *API) anyVersions() resource[pulp.Version] {
	return resource[pulp.Version]{
		model: "RepositoryVersion", list: store.VersionList, show: each(showVersion), filters: versionFilters(), orderings: []string{"number"},
		within: visible,
	}
}

func (a *API) versionRoutes() []route {
	push, container := a.versions(pulp.ContainerPush), a.versions(pulp.Container)
	repair := func(t pulp.RepositoryType) map[string]handler {
		return post(a.repairVersion(t))
	}
	return []route{
		{path: "repository_versions/", methods: get(listOf(a, a.anyVersions()))},
		{path: pulp.ContainerCollection + ":id/versions/", methods: get(listOf(a, container))},
		{path: pulp.ContainerCollection + ":id/versions/:number/", methods: map[string]handler{http.MethodGet: readOf(a, container), http.MethodDelete: a.deleteVersion}},
		{path: pulp.ContainerCollection + ":id/versions/:number/repair/", methods: repair(pulp.Container)},
		{path: pulp.PushCollection + ":id/versions/", methods: get(listOf(a, push))},
		// Versions of push repositories go with their repository only; nobody may delete one (golden 21c).
		{path: pulp.PushCollection + ":id/versions/:number/", methods: map[string]handler{
			http.MethodGet: readOf(a, push), http.MethodDelete: func(*request) (answer, error) { return answer{}, errDenied },
		}},
		{path: pulp.PushCollection + ":id/versions/:number/repair/", methods: repair(pulp.ContainerPush)},
	}
}

// permittedVersion returns the version that the path names, and its repository, to which the caller may do something.
func (a *API) permittedVersion(req *request, t pulp.RepositoryType, what auth.Action) (v pulp.Version, repo pulp.Repository, err error) {
	repo, err = a.permitted(a.repositories(t), req, what)
	if err == nil {
		v, err = one(a, a.versions(t), req)
	}
	return v, repo, err
}

// deleteVersion deletes a version of a container repository, unless a distribution serves it; what it changed is the next version's doing then (contract 2.5.3).
func (a *API) deleteVersion(req *request) (answer, error) {
	v, repo, err := a.permittedVersion(req, pulp.Container, auth.Delete)
	if err != nil {
		return answer{}, err
	}
	served, err := a.Store.Distributed(req.Context(), v.ID)
	if err == nil && served {
		err = badList("The repository version cannot be deleted because it (or its publications) are currently being used to distribute content. " +
			"Please update the necessary distributions first.")
	}
	if err != nil {
		return answer{}, err
	}
	return a.dispatch(req, "delete version", pulp.VersionHref(v.Type, v.RepositoryID, v.Number), tasks.Spec{
		Name: tasks.DeleteVersion, Args: tasks.VersionArgs{RepositoryID: v.RepositoryID, Number: v.Number}, Immediate: true, Namespace: pulp.NamespaceOf(repo.Name),
		Resources: []store.Resource{{Href: pulp.RepositoryHref(v.Type, v.RepositoryID), Exclusive: true}},
	})
}

// repairVersion has the blobs of a version looked at, and fetched again where they are broken and a remote has them.
func (a *API) repairVersion(t pulp.RepositoryType) handler {
	return func(req *request) (answer, error) {
		v, repo, err := a.permittedVersion(req, t, auth.Modify)
		if err != nil {
			return answer{}, err
		}
		b, err := req.body()
		if err != nil {
			return answer{}, err
		}
		read := b.flag("verify_checksums")
		if err := b.finish(); err != nil {
			return answer{}, err
		}
		return a.dispatch(req, "repair version", pulp.VersionHref(v.Type, v.RepositoryID, v.Number), tasks.Spec{
			Name: tasks.Repair, Args: tasks.VersionArgs{RepositoryID: v.RepositoryID, Number: v.Number, VerifyChecksums: read == nil || *read},
			Resources: []store.Resource{{Href: pulp.RepositoryHref(v.Type, v.RepositoryID)}}, Namespace: pulp.NamespaceOf(repo.Name),
		})
	}
}
