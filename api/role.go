package api

import (
	"net/http"
	"slices"
	"strings"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/openapi"
	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/tasks"
)

// role is the form of a role (compatibility.md#roles).
type role struct {
	object
	Name        string   `json:"name"`
	Description *string  `json:"description"`
	Permissions []string `json:"permissions"`
	Locked      bool     `json:"locked"`
}

func showRole(r pulp.Role) role {
	common := objectOf(pulp.RoleCollection, r.ID, r.Stamps)
	return role{common, r.Name, r.Description, append([]string{}, r.Permissions...), r.Locked}
}

// showRoles returns the JSON forms of roles. It reads their permissions only if they are shown.
func (a *API) showRoles(req *request, all []pulp.Role) ([]any, error) {
	var permissions map[string][]string
	if req.selected.Has("permissions") {
		ids := make([]string, len(all))
		for i, r := range all {
			ids[i] = r.ID
		}
		var err error
		if permissions, err = a.Store.Lists.PermissionsOf(req.Context(), ids); err != nil {
			return nil, err
		}
	}
	shown := make([]any, len(all))
	for i, r := range all {
		r.Permissions = permissions[r.ID]
		shown[i] = showRole(r)
	}
	return shown, nil
}

// roles are visible to every caller.
func (a *API) roles() resource[pulp.Role] {
	return resource[pulp.Role]{
		model: "Role", form: role{}, list: list.RoleList, show: a.showRoles, orderings: []string{"name", "description", "locked"},
		filters: mergeFilters(identityFilters(), nameFilters(), filters{
			"locked": is("locked"), "contains_permission": {permissionList, withPermissions},
			"for_object_type": {openapi.Text(), forObjectType},
		}),
	}
}

// permissionList is the schema of a list of permissions.
var permissionList = openapi.List(openapi.Text())

// withPermissions filters roles, or assignments of roles, by permissions that the roles all have.
func withPermissions(_ *API, _ *request, name string, values []string) (list.Filter, error) {
	parts, err := query.Split(name, values)
	if err != nil || len(parts) == 0 {
		return nil, err
	}
	where := make([]list.Filter, len(parts))
	for i, p := range parts {
		if !access.Known(access.Permission(p)) {
			return nil, query.BadChoice(name, p)
		}
		where[i] = list.WithPermission(access.Permission(p))
	}
	return list.All(where...), nil
}

// forObjectType filters roles by the href of a collection: all permissions of the roles are for its objects.
func forObjectType(_ *API, _ *request, name string, values []string) (list.Filter, error) {
	v := query.Last(values)
	if v == "" {
		return nil, nil
	}
	model := pulp.Model(strings.TrimPrefix(v, pulp.Root))
	if model == "" || !strings.HasPrefix(v, pulp.Root) {
		return nil, fault.Field(name, "No objects have the href prefix %s.", v)
	}
	var all []access.Permission
	for _, p := range access.Permissions {
		if p.Model() == model {
			all = append(all, p)
		}
	}
	return list.OnlyPermissions(all), nil
}

func (a *API) roleRoutes() []route {
	r := a.roles()
	return []route{
		{path: pulp.RoleCollection, methods: map[string]operation{
			http.MethodGet: listOf(a, r), http.MethodPost: create(a.createRole, roleForm, r.creates()),
		}},
		{path: pulp.RoleCollection + ":id/", href: "role_href", methods: map[string]operation{
			http.MethodGet: readOf(a, r), http.MethodDelete: remove(a.deleteRole, deletes),
			http.MethodPut:   update(a.editRole(true), roleForm, r.changes()),
			http.MethodPatch: partialUpdate(a.editRole(false), roleForm, r.changes()),
		}},
	}
}

// roleForm are the fields of the bodies of roles.
var roleForm = body.Form{
	"name": accountName.Required(), "description": body.Text.Nullable().Blank(), "permissions": body.Texts.Required(),
}

// roleFields are the fields of a role that a body sets.
type roleFields struct {
	name        *string
	description tasks.Optional[string]
	permissions []string // nil: absent
}

func (f roleFields) apply(r *pulp.Role) {
	set(&r.Name, f.name)
	if f.description.Set {
		r.Description = f.description.Value
	}
	if f.permissions != nil {
		r.Permissions = f.permissions
	}
}

// readRole reads and checks the body of a role. With whole it must have name and permissions.
func readRole(req *request, whole bool) (roleFields, error) {
	b, err := body.Read(req.Request)
	if err != nil {
		return roleFields{}, err
	}
	f := roleFields{
		name:        readName(b, "name", body.RequiredIf(whole)),
		description: b.Text("description", body.Nullable, body.Blank),
		permissions: b.Texts("permissions"),
	}
	if whole && !b.Has("permissions") {
		b.Fail("permissions", "This field is required.")
	}
	for _, p := range slices.Compact(slices.Sorted(slices.Values(f.permissions))) {
		if !access.Known(access.Permission(p)) {
			b.Fail("permissions", "Permission '%s' does not exist.", p)
		}
	}
	b.Ignore("locked")
	return f, b.Finish()
}

// createRole creates a role. Only administrators may create, change and delete roles.
func (a *API) createRole(req *request) (reply.Reply, error) {
	if !administers(req) {
		return reply.Reply{}, errDenied
	}
	f, err := readRole(req, true)
	if err != nil {
		return reply.Reply{}, err
	}
	var r pulp.Role
	f.apply(&r)
	if r, err = a.Store.Accounts.CreateRole(req.Context(), r); err != nil {
		return reply.Reply{}, err
	}
	return created(req, "create role", showRole(r), pulp.Href(pulp.RoleCollection, r.ID)), nil
}

// editRole returns the handler of PATCH or, when whole, of PUT, which requires name and permissions.
func (a *API) editRole(whole bool) handler {
	return func(req *request) (reply.Reply, error) {
		r, err := a.administeredRole(req)
		if err != nil {
			return reply.Reply{}, err
		}
		f, err := readRole(req, whole)
		if err != nil {
			return reply.Reply{}, err
		}
		if r, err = a.Store.Accounts.EditRole(req.Context(), r.ID, f.apply); err != nil {
			return reply.Reply{}, err
		}
		req.audit("edit role", pulp.Href(pulp.RoleCollection, r.ID))
		shown, err := req.selected.Of(showRole(r))
		return reply.OK(shown), err
	}
}

func (a *API) administeredRole(req *request) (pulp.Role, error) {
	r, err := findByPath(a, a.roles(), req)
	if err == nil && !administers(req) {
		err = errDenied
	}
	return r, err
}

func (a *API) deleteRole(req *request) (reply.Reply, error) {
	r, err := a.administeredRole(req)
	if err == nil {
		err = a.Store.Accounts.DeleteRole(req.Context(), r.ID)
	}
	if err != nil {
		return reply.Reply{}, err
	}
	req.audit("delete role", pulp.Href(pulp.RoleCollection, r.ID))
	return reply.Reply{Status: http.StatusNoContent}, nil
}
