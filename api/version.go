package api

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
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
			var any []store.Filter
			for _, r := range refs {
				any = append(any, store.All(store.Where("repository", store.Equal, r.ID), store.Where("number", store.Equal, r.Version)))
			}
			return store.Any(any...)
		}),
	})
}

// versions are those of one repository of a type.
func (a *API) versions(t pulp.RepositoryType) resource[pulp.Version] {
	return resource[pulp.Version]{
		model: "RepositoryVersion", list: (*store.Store).Versions, show: each(showVersion), filters: versionFilters(),
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
		model: "RepositoryVersion", list: (*store.Store).Versions, show: each(showVersion), filters: versionFilters(), orderings: []string{"number"},
		within: visible,
	}
}

func (a *API) versionRoutes() []route {
	push, container := a.versions(pulp.ContainerPush), a.versions(pulp.Container)
	return []route{
		{path: "repository_versions/", methods: get(listOf(a, a.anyVersions()))},
		{path: pulp.ContainerCollection + ":id/versions/", methods: get(listOf(a, container))},
		{path: pulp.ContainerCollection + ":id/versions/:number/", methods: get(readOf(a, container))},
		{path: pulp.PushCollection + ":id/versions/", methods: get(listOf(a, push))},
		// Versions of push repositories go with their repository only; nobody may delete one (golden 21c).
		{path: pulp.PushCollection + ":id/versions/:number/", methods: map[string]handler{
			http.MethodGet: readOf(a, push), http.MethodDelete: func(*request) (answer, error) { return answer{}, errDenied },
		}},
	}
}
