package api

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/taskstore"
	"github.com/countersign/countersign/tasks"
)

type version struct {
	object
	Number      int64   `json:"number"`
	Repository  string  `json:"repository"`
	BaseVersion *string `json:"base_version"`
	Summary     summary `json:"content_summary"`
	VulnReport  string  `json:"vuln_report"`
	CreatedBy   *string `json:"created_by"`
	Actor       string  `json:"actor"`
}

// summary has the numbers of units by kind, without kinds that have none (compatibility.md#repository-versions).
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
	var by *string
	if v.ActorID != 0 {
		user := pulp.UserHref(v.ActorID)
		by = &user
	}
	prn := pulp.VersionPRN(v.ID)
	return version{
		CreatedBy: by, Actor: v.Actor,
		object: object{href, prn, timestamp.Time(v.Created), timestamp.Time(v.Updated)}, Number: v.Number,
		Repository: pulp.RepositoryHref(v.Type, v.RepositoryID), Summary: s, VulnReport: pulp.Root + "vuln_report/?repo_versions=" + prn,
	}
}

func versionFilters() filters {
	holding := related(func(refs []pulp.Ref) list.Filter { return list.VersionHolding(idsOf(refs)) })
	return mergeFilters(numberFilters("number"), dateFilters("pulp_created"), filters{
		"content": one(holding), "content__in": holding, "prn__in": identityFilters()["prn__in"],
		"pulp_href__in": related(func(refs []pulp.Ref) list.Filter {
			named := make([]list.VersionName, len(refs))
			for i, r := range refs {
				named[i] = list.VersionName{RepositoryID: r.ID, Number: r.Version}
			}
			return list.VersionsNamed(named)
		}),
	})
}

// versions are the versions of the repository that the path names, which must have a type.
func (a *API) versions(t pulp.RepositoryType) resource[pulp.Version] {
	return resource[pulp.Version]{
		model: "RepositoryVersion", form: version{}, list: list.VersionList, show: showEach(showVersion), filters: versionFilters(),
		orderings: []string{"number"}, order: []list.Order{{Field: "number", Desc: true}},
		within: func(req *request) ([]list.Filter, error) {
			repo, err := permitted(a, a.repositories(t), req, access.View)
			return []list.Filter{list.Where("repository", list.Equal, repo.ID)}, err
		},
		key: func(req *request) (list.Filter, error) {
			n, err := strconv.ParseInt(req.param("number"), 10, 64)
			if err != nil || n < 0 || strings.HasPrefix(req.param("number"), "+") {
				return nil, reply.ErrNotFound
			}
			return list.Where("number", list.Equal, n), nil
		},
	}
}

// anyVersions are the versions of all repositories.
func (a *API) anyVersions() resource[pulp.Version] {
	return resource[pulp.Version]{
		model: "RepositoryVersion", form: version{}, list: list.VersionList, show: showEach(showVersion), filters: versionFilters(),
		orderings: []string{"number"}, within: a.visible,
	}
}

func (a *API) versionRoutes() []route {
	push, container := a.versions(pulp.ContainerPush), a.versions(pulp.Container)
	repair := func(t pulp.RepositoryType) map[string]operation {
		return post(action(a.repairVersion(t), body.Form{"verify_checksums": body.Bool.Default(true)}))
	}
	return []route{
		{path: "repository_versions/", methods: get(listOf(a, a.anyVersions()))},
		{path: pulp.ContainerCollection + ":id/versions/", methods: get(listOf(a, container))},
		{path: pulp.ContainerCollection + ":id/versions/:number/", href: "container_container_repository_version_href", methods: map[string]operation{
			http.MethodGet: readOf(a, container), http.MethodDelete: remove(a.deleteVersion, startsTask),
		}},
		{path: pulp.ContainerCollection + ":id/versions/:number/repair/", methods: repair(pulp.Container)},
		{path: pulp.PushCollection + ":id/versions/", methods: get(listOf(a, push))},
		// Versions of push repositories cannot be deleted (compatibility.md#push-repositories).
		{path: pulp.PushCollection + ":id/versions/:number/", href: "container_container_push_repository_version_href", methods: map[string]operation{
			http.MethodGet:    readOf(a, push),
			http.MethodDelete: remove(func(*request) (reply.Reply, error) { return reply.Reply{}, errDenied }, startsTask),
		}},
		{path: pulp.PushCollection + ":id/versions/:number/repair/", methods: repair(pulp.ContainerPush)},
	}
}

// permittedVersion returns the version that the path names and its repository, if the caller may do an action to the
// repository.
func (a *API) permittedVersion(
	req *request, t pulp.RepositoryType, action access.Action,
) (v pulp.Version, repo pulp.Repository, err error) {
	repo, err = permitted(a, a.repositories(t), req, action)
	if err == nil {
		v, err = findByPath(a, a.versions(t), req)
	}
	return v, repo, err
}

// deleteVersion starts a task that deletes a version of a container repository. It refuses a version that a
// distribution serves. The changes of the version become changes of the next one
// (compatibility.md#repository-versions).
func (a *API) deleteVersion(req *request) (reply.Reply, error) {
	v, repo, err := a.permittedVersion(req, pulp.Container, access.RemoveVersions)
	if err != nil {
		return reply.Reply{}, err
	}
	served, err := a.Store.Catalog.VersionPinned(req.Context(), v.ID)
	if err == nil && served {
		err = reply.BadRequest("The repository version cannot be deleted because it (or its publications) are currently " +
			"being used to distribute content. Please update the necessary distributions first.")
	}
	if err != nil {
		return reply.Reply{}, err
	}
	return a.dispatch(req, "delete version", pulp.VersionHref(v.Type, v.RepositoryID, v.Number), tasks.Spec{
		Name: tasks.DeleteVersion, Args: tasks.VersionArgs{RepositoryID: v.RepositoryID, Number: v.Number}, Immediate: true,
		Namespace: pulp.NamespaceOf(repo.Name),
		Resources: []taskstore.Resource{{Href: pulp.RepositoryHref(v.Type, v.RepositoryID), Exclusive: true}},
	})
}

// repairVersion returns the handler that starts a task which checks the blobs of a version and fetches broken ones
// again from remotes.
func (a *API) repairVersion(t pulp.RepositoryType) handler {
	return func(req *request) (reply.Reply, error) {
		v, repo, err := a.permittedVersion(req, t, access.Modify)
		if err != nil {
			return reply.Reply{}, err
		}
		checksums, err := readRepair(req)
		if err != nil {
			return reply.Reply{}, err
		}
		return a.dispatch(req, "repair version", pulp.VersionHref(v.Type, v.RepositoryID, v.Number), tasks.Spec{
			Name: tasks.Repair, Namespace: pulp.NamespaceOf(repo.Name),
			Args: tasks.VersionArgs{
				RepositoryID: v.RepositoryID, Number: v.Number, VerifyChecksums: checksums,
			},
			Resources: []taskstore.Resource{{Href: pulp.RepositoryHref(v.Type, v.RepositoryID)}},
		})
	}
}
