package api

import (
	"log/slog"
	"net/http"
	"net/mail"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/openapi"
	"github.com/countersign/countersign/api/internal/query"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/tasks"
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

// numberPRN returns the PRN of an object whose id is a number.
func numberPRN(collection string, id int64) string {
	return pulp.PRN(collection, strconv.FormatInt(id, 10))
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

// numberIdentityFilters are the identity filters of a collection whose ids are numbers.
func numberIdentityFilters(collection string) filters {
	in := func(parse func(name, text string) (id string, err error)) filter {
		return filter{openapi.List(openapi.Text()), func(_ *API, _ *request, name string, values []string) (list.Filter, error) {
			parts, err := query.Split(name, values)
			if err != nil || len(parts) == 0 {
				return nil, err
			}
			var ids []string
			for _, v := range parts {
				id, err := parse(name, v)
				if err != nil {
					return nil, err
				}
				ids = append(ids, id)
			}
			return list.OneOf("pulp_id", ids), nil
		}}
	}
	reference := func(prefix, message string) func(name, text string) (string, error) {
		return func(_, text string) (string, error) {
			ref, ok := pulp.ParseRef(text)
			if !ok || !strings.HasPrefix(text, prefix) {
				return "", reply.BadRequest(message, text)
			}
			if ref.Collection != collection { // its id may be that of an object of this collection
				return "", nil
			}
			return ref.ID, nil
		}
	}
	id := in(func(name, text string) (string, error) {
		n, err := number(name, text)
		return strconv.FormatInt(n, 10), err
	})
	id.schema = openapi.List(openapi.Integer())
	return filters{
		"id": one(id), "id__in": id,
		"pulp_href__in": in(reference("/", "URI not valid: %s")),
		"prn__in":       in(reference("prn:", "Not a valid PRN: %s, must start with 'prn:'")),
	}
}

var numberForm = regexp.MustCompile(`^[1-9][0-9]{0,17}$`)

// byNumber returns the condition for the object whose id, a number, the path has as "id".
func byNumber(req *request) (list.Filter, error) {
	if !numberForm.MatchString(req.param("id")) {
		return nil, reply.ErrNotFound
	}
	id, err := strconv.ParseInt(req.param("id"), 10, 64)
	return list.Where("id", list.Equal, id), err
}

func (a *API) userRoutes() []route {
	r := a.users()
	return []route{
		{path: pulp.UserCollection, methods: map[string]operation{
			http.MethodGet: listOf(a, r), http.MethodPost: create(a.createUser, userForm, r.creates()),
		}},
		{path: pulp.UserCollection + ":id/", href: "auth_user_href", methods: map[string]operation{
			http.MethodGet: readOf(a, r), http.MethodDelete: remove(a.deleteUser, deletes),
			http.MethodPut:   update(a.editUser(true), userForm, r.changes()),
			http.MethodPatch: partialUpdate(a.editUser(false), userForm, r.changes()),
		}},
	}
}

// may reports whether the caller may perform an action on an object with an id, or on objects of its kind.
func (a *API) may(req *request, action access.Action, on access.Object, id string) (bool, error) {
	return a.Access.Allow(req.Context(), req.caller, action, on, id)
}

// require returns an error unless the caller may perform an action; see may.
func (a *API) require(req *request, action access.Action, on access.Object, id string) error {
	allowed, err := a.may(req, action, on, id)
	if err == nil && !allowed {
		err = errDenied
	}
	return err
}

// administers reports whether the caller is an administrator whose API token, if there is one, has no limits.
func administers(req *request) bool {
	return access.Allow(req.caller, access.Administer, access.Object{Kind: access.Server})
}

// visibleUsers returns the condition for users that the caller may see: all with the permission, else the caller.
func (a *API) visibleUsers(req *request) ([]list.Filter, error) {
	all, err := a.may(req, access.View, access.Object{Kind: access.Accounts}, "")
	if err != nil || all {
		return nil, err
	}
	return []list.Filter{list.Where("id", list.Equal, req.caller.Account.ID)}, nil
}

// accountName is the field that readName reads.
var accountName = body.Text.AtMost(pulp.MaxAccountName)

// userForm are the fields of the bodies of users.
var userForm = body.Form{
	"username":   accountName.Required(),
	"first_name": accountName.Blank(),
	"last_name":  accountName.Blank(),
	"email":      body.Text.Blank().AtMost(maxEmail),
	"is_staff":   body.Bool,
	"is_active":  body.Bool,
	"password":   body.Secret,
}

// userFields are the fields of a user that a body sets.
type userFields struct {
	username, firstName, lastName, email *string
	staff, active                        *bool
	password                             tasks.Optional[string]
	hash                                 string // of the password
}

// apply sets the fields of a user, except the password's hash.
func (f userFields) apply(u *pulp.User) {
	set(&u.Username, f.username)
	set(&u.FirstName, f.firstName)
	set(&u.LastName, f.lastName)
	set(&u.Email, f.email)
	set(&u.Staff, f.staff)
	set(&u.Active, f.active)
}

// changed returns the names of the fields that differ from those of a user.
func (f userFields) changed(old pulp.User) []string {
	after, names := old, []string{}
	f.apply(&after)
	for _, field := range []struct {
		name    string
		differs bool
	}{
		{"username", after.Username != old.Username}, {"first_name", after.FirstName != old.FirstName},
		{"last_name", after.LastName != old.LastName}, {"email", after.Email != old.Email},
		{"is_staff", after.Staff != old.Staff}, {"is_active", after.Active != old.Active}, {"password", f.password.Set},
	} {
		if field.differs {
			names = append(names, field.name)
		}
	}
	return names
}

func set[T any](to, v *T) {
	if v != nil {
		*to = *v
	}
}

// readUser reads and checks the fields of a user. Fields that the body lacks keep their values in old. With whole the
// body must have the user's name.
func readUser(b *body.Fields, old pulp.User, whole bool) userFields {
	f := userFields{
		username:  readName(b, "username", body.RequiredIf(whole)),
		firstName: readName(b, "first_name", body.Blank),
		lastName:  readName(b, "last_name", body.Blank),
		email:     b.Text("email", body.Blank).Value,
		staff:     b.Bool("is_staff"),
		active:    b.Bool("is_active"),
		password:  b.Secret("password"),
	}
	b.Ignore("id", "date_joined", "groups", "hidden_fields", "kind", "source")
	if f.username != nil && *f.username != old.Username && b.Valid("username") && !pulp.ValidUsername(*f.username) {
		b.Fail("username", "Enter a valid username. "+
			"This value may contain only letters, numbers, and @/./+/-/_ characters.")
	}
	if f.email != nil && *f.email != old.Email && *f.email != "" && b.Valid("email") && !validEmail(*f.email) {
		b.Fail("email", "Enter a valid email address.")
	}
	if v, _ := b.Value("password"); v == "" {
		b.Fail("password", "This field may not be blank.")
	}
	return f
}

// readName reads a text of at most 150 characters.
func readName(b *body.Fields, name string, rules ...body.Rule) *string {
	v := b.Text(name, rules...).Value
	if v != nil && utf8.RuneCountInString(*v) > pulp.MaxAccountName {
		b.Fail(name, "Ensure this field has no more than %d characters.", pulp.MaxAccountName)
	}
	return v
}

// maxEmail is the length limit of an address in bytes.
const maxEmail = 254

func validEmail(s string) bool {
	address, err := mail.ParseAddress(s)
	return err == nil && address.Address == s && len(s) <= maxEmail
}

// finishUser finishes the body of a user, checks the password and hashes it. u has the names after the change.
func finishUser(b *body.Fields, f *userFields, u pulp.User) error {
	if err := b.Finish(); err != nil || f.password.Value == nil {
		return err
	}
	password := *f.password.Value
	if err := auth.CheckPasswordLength(password); err != nil {
		return err
	}
	if faults := auth.PasswordFaults(password, u); len(faults) > 0 {
		return &fault.Error{
			Kind: fault.Invalid, Msg: "The password is too weak.", Fields: fault.Fields{"non_field_errors": faults},
		}
	}
	var err error
	f.hash, err = auth.HashPassword(password)
	return err
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

// editor is the relation of a caller to a user that the caller changes.
type editor struct {
	administers bool // the caller is an administrator
	may         bool // the caller has the permission to change users
	own         bool // the user is the caller
	byPassword  bool // the caller authenticated with the password
}

// permit returns an error unless the editor may set the fields of a user. Only administrators change administrators and
// make them. An API token or a certificate cannot change the password of its owner, so that a stolen one does not outlive
// its revocation.
func (e editor) permit(u pulp.User, f userFields) error {
	differs := func(v *bool, from bool) bool { return v != nil && *v != from }
	switch {
	case u.Staff && !e.administers && !e.own,
		differs(f.staff, u.Staff) && !e.administers,
		differs(f.active, u.Active) && !e.may,
		f.username != nil && *f.username != u.Username && !e.may,
		f.password.Set && e.own && !e.byPassword:
		return errDenied
	}
	return nil
}

// noteMaintained notes errors for fields of an account that this server does not maintain: of accounts that are no
// local users only is_active can be changed.
func noteMaintained(b *body.Fields, u pulp.User, f userFields) {
	if u.Kind == pulp.LocalUser {
		return
	}
	for _, name := range f.changed(u) {
		if name != "is_active" && b.Valid(name) {
			b.Fail(name, "Only is_active of an account of the kind '%s' can be changed.", u.Kind)
		}
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
