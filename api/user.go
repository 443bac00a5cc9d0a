package api

import (
	"log/slog"
	"net/http"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
)

// user is the form of an account (compatibility.md#users-of-the-api).
type user struct {
	Href      string           `json:"pulp_href"`
	PRN       string           `json:"prn"`
	ID        int64            `json:"id"`
	Username  string           `json:"username"`
	FirstName string           `json:"first_name"`
	LastName  string           `json:"last_name"`
	Email     string           `json:"email"`
	Staff     bool             `json:"is_staff"`
	Active    bool             `json:"is_active"`
	Joined    timestamp.Time   `json:"date_joined"`
	Groups    []userGroup      `json:"groups"`
	Hidden    []hiddenField    `json:"hidden_fields"`
	Kind      pulp.AccountKind `json:"kind"`
	Source    *string          `json:"source"`
}

// userGroup is a group in the form of a user.
type userGroup struct {
	Name string `json:"name"`
	Href string `json:"pulp_href"`
	PRN  string `json:"prn"`
}

func showUser(u pulp.User, groups []pulp.Group) user {
	v := user{
		Href: pulp.UserHref(u.ID), PRN: numberPRN(pulp.UserCollection, u.ID), ID: u.ID, Username: u.Username,
		FirstName: u.FirstName, LastName: u.LastName, Email: u.Email, Staff: u.Staff, Active: u.Active,
		Joined: timestamp.Time(u.Created), Groups: []userGroup{}, Hidden: []hiddenField{{"password", u.Hash != ""}},
		Kind: u.Kind,
	}
	if u.Source != "" {
		v.Source = &u.Source
	}
	for _, g := range groups {
		v.Groups = append(v.Groups, userGroup{g.Name, pulp.GroupHref(g.ID), numberPRN(pulp.GroupCollection, g.ID)})
	}
	return v
}

// showUsers returns the JSON forms of users. It reads their groups only if they are shown.
func (a *API) showUsers(req *request, all []pulp.User) ([]any, error) {
	var groups map[int64][]pulp.Group
	if req.selected.Has("groups") {
		ids := make([]int64, len(all))
		for i, u := range all {
			ids[i] = u.ID
		}
		var err error
		if groups, err = a.Store.Lists.GroupsOf(req.Context(), ids); err != nil {
			return nil, err
		}
	}
	shown := make([]any, len(all))
	for i, u := range all {
		shown[i] = showUser(u, groups[u.ID])
	}
	return shown, nil
}

func (a *API) users() resource[pulp.User] {
	return resource[pulp.User]{
		model: "User", form: user{}, list: list.UserList, show: a.showUsers, within: a.visibleUsers, key: byNumber,
		orderings: []string{
			"id", "username", "first_name", "last_name", "email", "is_staff", "is_active", "date_joined", "kind", "source",
		},
		filters: mergeFilters(
			numberIdentityFilters(pulp.UserCollection), textFilters("username"), textFilters("first_name"),
			textFilters("last_name"), textFilters("email"), exactFilters("kind"), exactFilters("source"),
			filters{"is_active": is("is_active"), "is_staff": is("is_staff")},
		),
	}
}

// textFilters are the filters of a text in lists of users.
func textFilters(field string) filters {
	return mergeFilters(exactFilters(field), filters{
		field + "__iexact":   compare(field, list.EqualFold),
		field + "__contains": compare(field, list.Contains), field + "__icontains": compare(field, list.ContainsFold),
	})
}

func (a *API) userRoutes() []route {
	r := a.users()
	return []route{
		{path: pulp.UserCollection, methods: map[string]operation{
			http.MethodGet: listOf(a, r), http.MethodPost: create(a.createUser, userForm, r.creates()),
		}},
		{path: pulp.UserCollection + ":id/", href: "auth_user_href", methods: map[string]operation{
			http.MethodGet: readOf(a, r), http.MethodDelete: remove(a.deleteUser, deletes, http.StatusConflict),
			http.MethodPut:   update(a.editUser(true), userForm, r.changes(), http.StatusConflict),
			http.MethodPatch: partialUpdate(a.editUser(false), userForm, r.changes(), http.StatusConflict),
		}},
	}
}

// visibleUsers returns the condition for users that the caller may see: all with the permission, else the caller.
func (a *API) visibleUsers(req *request) ([]list.Filter, error) {
	all, err := a.may(req, access.View, access.Object{Kind: access.Accounts}, "")
	if err != nil || all {
		return nil, err
	}
	return []list.Filter{list.Where("id", list.Equal, req.caller.Account.ID)}, nil
}

// createUser creates a local user. Only administrators create administrators.
func (a *API) createUser(req *request) (reply.Reply, error) {
	if err := a.require(req, access.Create, access.Object{Kind: access.Accounts}, ""); err != nil {
		return reply.Reply{}, err
	}
	b, err := body.Read(req.Request)
	if err != nil {
		return reply.Reply{}, err
	}
	u := pulp.User{Kind: pulp.LocalUser, Active: true}
	f := readUser(b, u, true)
	f.apply(&u)
	if u.Staff && !administers(req) {
		return reply.Reply{}, errDenied
	}
	if err := finishUser(b, &f, u); err != nil {
		return reply.Reply{}, err
	}
	u.Hash = f.hash
	if u, err = a.Store.Accounts.CreateUser(req.Context(), u); err != nil {
		return reply.Reply{}, err
	}
	return created(req, "create user", showUser(u, nil), pulp.UserHref(u.ID)), nil
}

// editUser returns the handler of PATCH or, when whole, of PUT, which requires the user's name. Callers may change
// their own names, address and password without a permission.
func (a *API) editUser(whole bool) handler {
	return func(req *request) (reply.Reply, error) {
		old, err := findByPath(a, a.users(), req)
		if err != nil {
			return reply.Reply{}, err
		}
		may, err := a.may(req, access.Change, access.Object{Kind: access.Accounts}, "")
		if err != nil {
			return reply.Reply{}, err
		}
		by := editor{
			administers: administers(req), may: may,
			own:        old.ID == req.caller.Account.ID && !req.caller.Token.Limited(),
			byPassword: req.caller.Token == nil && req.caller.Identity == "",
		}
		if !by.may && !by.own {
			return reply.Reply{}, errDenied
		}
		b, err := body.Read(req.Request)
		if err != nil {
			return reply.Reply{}, err
		}
		f := readUser(b, old, whole)
		if err := by.permit(old, f); err != nil {
			return reply.Reply{}, err
		}
		noteMaintained(b, old, f)
		after := old
		f.apply(&after)
		if err := finishUser(b, &f, after); err != nil {
			return reply.Reply{}, err
		}
		changed, err := a.Store.Accounts.EditUser(req.Context(), old.ID, func(u *pulp.User) error {
			if err := by.permit(*u, f); err != nil { // it may have changed in the meantime
				return err
			}
			f.apply(u)
			if f.password.Set {
				u.Hash = f.hash
			}
			return nil
		})
		if err != nil {
			return reply.Reply{}, err
		}
		req.audit("edit user", pulp.UserHref(old.ID), slog.Any("changed", f.changed(old)))
		return showOne(a.users(), req, changed)
	}
}

// deleteUser deletes a user. Only administrators delete administrators.
func (a *API) deleteUser(req *request) (reply.Reply, error) {
	u, err := findByPath(a, a.users(), req)
	if err != nil {
		return reply.Reply{}, err
	}
	if err := a.require(req, access.Delete, access.Object{Kind: access.Accounts}, ""); err != nil {
		return reply.Reply{}, err
	}
	if err := a.Store.Accounts.DeleteUser(req.Context(), u.ID, func(u pulp.User) error {
		if u.Staff && !administers(req) {
			return errDenied
		}
		return nil
	}); err != nil {
		return reply.Reply{}, err
	}
	req.audit("delete user", pulp.UserHref(u.ID))
	return reply.Reply{Status: http.StatusNoContent}, nil
}
