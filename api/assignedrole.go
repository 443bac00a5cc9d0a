package api

import (
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/openapi"
	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/list"
)

// assignedRole is the form of a role of a user or a group (compatibility.md#assigned-roles).
type assignedRole struct {
	object
	Role        string   `json:"role"`
	Object      *string  `json:"content_object"`
	ObjectPRN   *string  `json:"content_object_prn"`
	Description *string  `json:"description"`
	Permissions []string `json:"permissions"`
	Domain      *string  `json:"domain"` // always null here
}

// roleHolders describes the users or the groups of nested paths: users/<id>/roles/ and groups/<id>/roles/.
type roleHolders struct {
	collection string
	hrefName   string // of assignments, in the OpenAPI document
	noun       string
	model      string // of the assignments
	field      string // of list.AssignmentList
	// find returns the user or group that the path names, if the caller may see it.
	find func(*request) (accounts.Assignee, error)
}

func (a *API) userHolders() roleHolders {
	return roleHolders{
		pulp.UserCollection,
		"auth_users_user_role_href",
		"user",
		"UserRole",
		"account",
		func(req *request) (accounts.Assignee, error) {
			u, err := findByPath(a, a.users(), req)
			return accounts.Assignee{Account: u.ID, Name: u.Username}, err
		},
	}
}

func (a *API) groupHolders() roleHolders {
	return roleHolders{
		pulp.GroupCollection,
		"groups_group_role_href",
		"group",
		"GroupRole",
		"group",
		func(req *request) (accounts.Assignee, error) {
			g, err := findByPath(a, a.groups(), req)
			return accounts.Assignee{Group: g.ID, Name: g.Name}, err
		},
	}
}

// assignedRoles are the roles of the user or group that the path names.
func (a *API) assignedRoles(h roleHolders) resource[pulp.Assignment] {
	return resource[pulp.Assignment]{
		model: h.model, form: assignedRole{}, list: list.AssignmentList, orderings: []string{"role"},
		show: func(req *request, all []pulp.Assignment) ([]any, error) { return a.showAssignedRoles(req, h, all) },
		within: func(req *request) ([]list.Filter, error) {
			of, err := h.find(req)
			return []list.Filter{list.Where(h.field, list.Equal, of.Account+of.Group)}, err
		},
		key: func(req *request) (list.Filter, error) {
			id := strings.ToLower(req.param("role"))
			if !pulp.ValidUUID(id) {
				return nil, reply.ErrNotFound
			}
			return list.Where("pulp_id", list.Equal, id), nil
		},
		filters: mergeFilters(filters{"pulp_id__in": identityFilters()["pulp_id__in"]}, exactFilters("role"), filters{
			"role__contains": compare("role", list.Contains), "role__icontains": compare("role", list.ContainsFold),
			"role__startswith":    compare("role", list.HasPrefix),
			"contains_permission": {permissionList, withPermissions},
			"content_object":      {openapi.Text(), onObject}, "content_object_prn": {openapi.Text(), onObject},
		}),
	}
}

// onObject filters assignments by the href or PRN of their object; null stands for all objects.
func onObject(_ *API, _ *request, _ string, values []string) (list.Filter, error) {
	v := query.Last(values)
	switch v {
	case "":
		return nil, nil
	case "null":
		return list.Where("object", list.Equal, ""), nil
	}
	ref, err := parseReference(v)
	if err != nil {
		return nil, err
	}
	kind, _, ok := access.KindOf(ref.Collection)
	if !ok || ref.Version >= 0 {
		return list.Any(), nil
	}
	return list.Where("object", list.Equal, access.Key(kind, ref.ID)), nil
}

// showAssignedRoles returns the JSON forms of assignments. It reads the permissions of the roles only if they are
// shown.
func (a *API) showAssignedRoles(req *request, h roleHolders, all []pulp.Assignment) ([]any, error) {
	var permissions map[string][]string
	if req.selected.Has("permissions") {
		var roles []string
		for _, one := range all {
			roles = append(roles, one.RoleID)
		}
		slices.Sort(roles)
		var err error
		if permissions, err = a.Store.Lists.PermissionsOf(req.Context(), slices.Compact(roles)); err != nil {
			return nil, err
		}
	}
	shown := make([]any, len(all))
	for i, one := range all {
		v := assignedRole{
			object: object{
				h.href(one), "prn:core." + strings.ToLower(h.model) + ":" + one.ID,
				timestamp.Time(one.Created), timestamp.Time(one.Updated),
			},
			Role: one.Role, Description: one.About, Permissions: append([]string{}, permissions[one.RoleID]...),
		}
		if collection, id := collectionOf(one); collection != "" {
			href, prn := pulp.Href(collection, id), pulp.PRN(collection, id)
			v.Object, v.ObjectPRN = &href, &prn
		}
		shown[i] = v
	}
	return shown, nil
}

// href returns the href of an assignment.
func (h roleHolders) href(one pulp.Assignment) string {
	return pulp.Href(h.collection+strconv.FormatInt(one.AccountID+one.GroupID, 10)+"/roles/", one.ID)
}

// collectionOf returns the collection and the id of the object of an assignment; empty for all objects.
func collectionOf(one pulp.Assignment) (collection, id string) {
	kind, id, _ := strings.Cut(one.Object, ":")
	if one.Repository != "" {
		return one.Repository.Collection(), id
	}
	for _, c := range securables {
		if k, _, _ := access.KindOf(c); string(k) == kind && k != access.Repository {
			return c, id
		}
	}
	return "", ""
}

func (a *API) assignedRoleRoutes() []route {
	var routes []route
	for _, h := range []roleHolders{a.userHolders(), a.groupHolders()} {
		path, r := h.collection+":id/roles/", a.assignedRoles(h)
		routes = append(routes,
			route{path: path, methods: map[string]operation{
				http.MethodGet: listOf(a, r), http.MethodPost: create(a.assignRole(h), assignedRoleFields, r.creates()),
			}},
			route{path: path + ":role/", href: h.hrefName, methods: map[string]operation{
				http.MethodGet: readOf(a, r), http.MethodDelete: remove(a.removeAssignedRole(h), deletes),
			}},
		)
	}
	return routes
}

// assignedRoleFields are the fields of the bodies of assignments.
var assignedRoleFields = body.Form{
	"role": body.Text.Required(), "content_object": body.Reference, "content_object_prn": body.Reference, "domain": body.Reference,
}

// assignRole returns the handler that assigns a role to a user or a group: on an object, or on all objects, which only
// administrators may do.
func (a *API) assignRole(h roleHolders) handler {
	return func(req *request) (reply.Reply, error) {
		to, err := h.find(req)
		if err != nil {
			return reply.Reply{}, err
		}
		b, err := body.Read(req.Request)
		if err != nil {
			return reply.Reply{}, err
		}
		key, err := a.readAssignedObject(req, b)
		if err != nil {
			return reply.Reply{}, err
		}
		name := b.Text("role", body.Required).Value
		if name != nil && b.Valid("role") {
			if _, err := a.Store.Accounts.RoleByName(req.Context(), *name); fault.Is(err, fault.NotFound) {
				b.Fail("role", "%s", noSuchRole(*name))
			} else if err != nil {
				return reply.Reply{}, err
			}
		}
		if v, _ := b.Value("domain"); v != nil && v != "" {
			b.Fail("domain", notExist)
		}
		b.Ignore("description", "permissions")
		if err := b.Finish(); err != nil {
			return reply.Reply{}, err
		}
		ids, err := a.Store.Accounts.AssignRole(req.Context(), *name, key, to)
		if fault.Is(err, fault.NotFound) { // it was deleted in the meantime
			err = fault.New(fault.Invalid, "%s", err.Error())
		}
		if err != nil {
			return reply.Reply{}, err
		}
		made, err := findByID(a, a.assignedRoles(h), req, ids[0])
		if err != nil {
			return reply.Reply{}, err
		}
		shown, err := a.showAssignedRoles(req, h, []pulp.Assignment{made})
		if err != nil {
			return reply.Reply{}, err
		}
		req.audit("create "+h.noun+" role", h.href(made),
			slog.String("to", to.String()), slog.String("role", *name), slog.String("on", key))
		return reply.Reply{
			Status: http.StatusCreated, Body: shown[0], Header: http.Header{"Location": {h.href(made)}},
		}, nil
	}
}

// readAssignedObject reads the object on which a role shall be assigned and returns its access.Key; empty for all
// objects. The error is Denied if the caller may not assign roles there.
func (a *API) readAssignedObject(req *request, b *body.Fields) (string, error) {
	field := "content_object"
	if v, set := b.Value("content_object_prn"); set && v != nil {
		if other, _ := b.Value("content_object"); other != nil {
			b.Fail("content_object_prn", "Only one of content_object and content_object_prn may be used.")
			return "", nil
		}
		field = "content_object_prn"
	}
	text := b.Reference(field)
	switch {
	case !b.Valid(field):
		return "", nil
	case text == "" && !administers(req):
		return "", errDenied
	case text == "":
		return "", nil
	}
	ref, ok := b.Related(field, securables...)
	if !ok {
		return "", nil
	}
	s, err := a.findSecurable(req, ref.Collection, ref.ID)
	if fault.Is(err, fault.NotFound) {
		b.Fail(field, notExist)
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return s.key(), a.require(req, access.ManageRoles, s.on, s.id)
}

// removeAssignedRole returns the handler that deletes an assignment, which the caller must be allowed to make.
func (a *API) removeAssignedRole(h roleHolders) handler {
	return func(req *request) (reply.Reply, error) {
		one, err := findByPath(a, a.assignedRoles(h), req)
		if err != nil {
			return reply.Reply{}, err
		}
		if !administers(req) {
			collection, id := collectionOf(one)
			if collection == "" {
				return reply.Reply{}, errDenied
			}
			s, err := a.findSecurable(req, collection, id)
			if fault.Is(err, fault.NotFound) {
				err = errDenied
			}
			if err == nil {
				err = a.require(req, access.ManageRoles, s.on, s.id)
			}
			if err != nil {
				return reply.Reply{}, err
			}
		}
		if err := a.Store.Accounts.DeleteAssignment(req.Context(), one.ID); err != nil {
			return reply.Reply{}, err
		}
		req.audit("delete "+h.noun+" role", h.href(one), slog.String("role", one.Role), slog.String("on", one.Object))
		return reply.Reply{Status: http.StatusNoContent}, nil
	}
}
