package api_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/api"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/pulp"
	assign "github.com/countersign/countersign/internal/store/accounts"
)

// tokens accepts what accounts accepts. The header "Token" makes the caller one with an API token ("any",
// "limited") or with a certificate.
type tokens struct{ accounts }

func (a tokens) Basic(r *http.Request) (*access.Caller, error) {
	c, err := a.accounts.Basic(r)
	switch kind := r.Header.Get("Token"); {
	case c == nil || kind == "":
	case kind == "certificate":
		c.Identity = "certificate x"
	case kind == "limited":
		c.Token = &access.Token{ID: "t", Actions: access.Uses}
	default:
		c.Token = &access.Token{ID: "t"}
	}
	return c, err
}

// newAccountWorld is newWorld with API tokens.
func newAccountWorld(t *testing.T) *world {
	t.Helper()
	return newWorld(t, func(o *api.Options) { o.Auth = tokens{accounts{o.Store}} })
}

// grant gives a user a role, on all objects or on the one with a key.
func (w *world) grant(user, role, object string) {
	w.t.Helper()
	to := assign.Assignee{Account: w.userID(user), Name: user}
	if _, err := w.store.Accounts.AssignRole(w.t.Context(), role, object, to); err != nil {
		w.t.Fatal(err)
	}
}

// role creates a role with some permissions.
func (w *world) role(name string, permissions ...access.Permission) {
	w.t.Helper()
	r := pulp.Role{Name: name}
	for _, p := range permissions {
		r.Permissions = append(r.Permissions, string(p))
	}
	if _, err := w.store.Accounts.CreateRole(w.t.Context(), r); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) userHref(name string) string { return pulp.UserHref(w.userID(name)) }

// storedUser reads a user from the database.
func (w *world) storedUser(name string) pulp.User {
	w.t.Helper()
	u, err := w.store.Accounts.UserByName(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

func TestUsers(t *testing.T) {
	t.Parallel()
	w := newAccountWorld(t)
	made := w.expect(call{method: "POST", path: "users/", json: map[string]any{
		"username": "dora.d@x+1_2", "password": "long-and-Secret7", "first_name": "", "last_name": "Dee", "email": "d@example.com",
		"is_staff": true, "is_active": false, "groups": []string{"x"}, "date_joined": "x",
	}}, http.StatusCreated, "")
	u := w.storedUser("dora.d@x+1_2")
	want := map[string]any{
		"pulp_href": pulp.UserHref(u.ID), "prn": fmt.Sprintf("prn:auth.user:%d", u.ID), "id": float64(u.ID),
		"username": "dora.d@x+1_2", "first_name": "", "last_name": "Dee", "email": "d@example.com", "is_staff": true,
		"is_active": false, "groups": []any{}, "kind": "user", "source": nil,
		"hidden_fields": []any{map[string]any{"name": "password", "is_set": true}},
	}
	shown := made.body.(map[string]any)
	delete(shown, "date_joined")
	if diff := cmp.Diff(want, shown); diff != "" || made.Header.Get("Location") != pulp.UserHref(u.ID) {
		t.Errorf("created: Location %s (-want +got):\n%s", made.Header.Get("Location"), diff)
	}
	login := auth.New(w.store.Accounts, slog.New(slog.DiscardHandler))
	canLogIn := func(name, password string) bool {
		_, err := login.Login(t.Context(), name, password)
		return err == nil
	}
	href := pulp.UserHref(u.ID)
	w.expect(call{method: "PATCH", path: href, json: `{"is_active":true,"is_staff":false,"username":"dora"}`}, 200, "")
	if !canLogIn("dora", "long-and-Secret7") {
		t.Error("the password does not open the account")
	}
	w.expect(
		call{method: "PUT", path: href, json: `{"first_name":"D"}`},
		400,
		`{"username":["This field is required."]}`,
	)
	w.expect(call{method: "PUT", path: href, json: `{"username":"dora","first_name":"D"}`}, 200, "")
	if u := w.storedUser("dora"); u.FirstName != "D" || u.LastName != "Dee" || !canLogIn("dora", "long-and-Secret7") {
		t.Errorf("PUT without a field changed it: %+v", u)
	}
	w.expect(call{method: "PATCH", path: href, json: `{"password":"another-Secret8"}`}, 200, "")
	if canLogIn("dora", "long-and-Secret7") || !canLogIn("dora", "another-Secret8") {
		t.Error("the password was not changed")
	}
	removed := w.expect(call{method: "PATCH", path: href, json: `{"password":null}`}, 200, "")
	if canLogIn("dora", "another-Secret8") || !strings.Contains(removed.raw, `"is_set":false`) {
		t.Errorf("the password was not removed: %s", removed.raw)
	}
	w.expect(call{method: "DELETE", path: href}, 204, "")
	w.expect(call{path: href}, 404, `{"detail":"No User matches the given query."}`)
	w.expect(call{method: "DELETE", path: href}, 404, "")
	for _, id := range []string{"0", "x", "-1", "01", "99999999999999999999", "%00", strings.Repeat("9", 10_000)} {
		w.expect(call{path: "users/" + id + "/"}, 404, "")
	}
}

// TestInvalidUsers sends bodies that are refused.
func TestInvalidUsers(t *testing.T) {
	t.Parallel()
	w := newAccountWorld(t)
	const badName = `{"username":["Enter a valid username. This value may contain only letters, numbers, and @/./+/-/_ characters."]}`
	long := strings.Repeat("a", 10_000)
	before := w.results("users/", "username")
	for body, want := range map[string]string{
		`{}`:                                           `{"username":["This field is required."]}`,
		`[]`:                                           `{"non_field_errors":["Invalid data. Expected a dictionary, but got list."]}`,
		`{"username":""}`:                              `{"username":["This field may not be blank."]}`,
		`{"username":null}`:                            `{"username":["This field may not be null."]}`,
		`{"username":["x"]}`:                           `{"username":["Not a valid string."]}`,
		`{"username":"a b"}`:                           badName,
		`{"username":"a/b"}`:                           badName,
		`{"username":"oidc:rule"}`:                     badName,
		"{\"username\":\"\u0430dmin\"}":                badName, // a Cyrillic letter
		"{\"username\":\"admin\u200b\"}":               badName,
		`{"username":"x\u0000"}`:                       `{"username":["Null characters are not allowed."]}`,
		`{"username":"admin"}`:                         `{"username":["This field must be unique."]}`,
		`{"username":"x","username":"acme"}`:           `{"username":["This field must be unique."]}`, // the last one counts
		`{"username":"` + long + `"}`:                  `{"username":["Ensure this field has no more than 150 characters."]}`,
		`{"username":"x","first_name":"` + long + `"}`: `{"first_name":["Ensure this field has no more than 150 characters."]}`,
		`{"username":"x","email":"no"}`:                `{"email":["Enter a valid email address."]}`,
		`{"username":"x","email":"N <a@b.c>"}`:         `{"email":["Enter a valid email address."]}`,
		`{"username":"x","is_staff":null}`:             `{"is_staff":["This field may not be null."]}`,
		`{"username":"x","is_active":7.5}`:             `{"is_active":["Must be a valid boolean."]}`,
		`{"username":"x","password":""}`:               `{"password":["This field may not be blank."]}`,
		`{"username":"x","password":5}`:                `{"password":["Not a valid string."]}`,
		`{"username":"x","password":"\u0000aaaaaaaa"}`: `{"password":["Null characters are not allowed."]}`,
		`{"username":"x","password":"` + strings.Repeat("ä", 37) + `"}`: `{"password":["A password has 1 to 72 bytes."]}`,
		`{"username":"x","password":"` + long + `"}`:                    `{"password":["A password has 1 to 72 bytes."]}`,
		`{"username":"x","password":"12345678"}`:                        `{"non_field_errors":["This password is too common.","This password is entirely numeric."]}`,
		`{"username":"rosalind","password":"Rosalind7"}`:                `{"non_field_errors":["The password is too similar to the username."]}`,
		`{"username":"x","password_hash":"$2a$10$x"}`:                   `{"password_hash":["Unexpected field"]}`,
		`{"username":"x","is_superuser":true}`:                          `{"is_superuser":["Unexpected field"]}`,
		`{"username":"x","external_id":"y"}`:                            `{"external_id":["Unexpected field"]}`,
	} {
		w.expect(call{method: "POST", path: "users/", json: body}, 400, want)
	}
	w.expect(
		call{method: "POST", path: "users/", json: `{"username":"acme","kind":"robot"}`},
		400,
		`{"username":["This field must be unique."]}`,
	)
	if after := w.results("users/", "username"); !slices.Equal(before, after) {
		t.Errorf("refused requests made users: %v, before %v", after, before)
	}
	made := w.expect(
		call{method: "POST", path: "users/", json: `{"username":"` + long[:150] + `","kind":"robot"}`},
		201,
		"",
	)
	if kind := made.body.(map[string]any)["kind"]; kind != "user" {
		t.Errorf("a body made an account of the kind %v", kind)
	}
}

// TestUserLists filters and sorts users. The password's hash is neither shown nor a field of filters, orderings or `q`.
func TestUserLists(t *testing.T) {
	t.Parallel()
	w := newAccountWorld(t)
	w.grant("carol", "core.user_viewer", "")
	hash := "$2a$10$" + strings.Repeat("h", 53)
	if _, err := w.store.Accounts.PutUser(t.Context(), "dave", hash, false, false); err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprint(w.userID("acme"))
	for query, want := range map[string][]string{
		"":                         {"dave", "carol", "acme", "admin"},
		"?ordering=username":       {"acme", "admin", "carol", "dave"},
		"?ordering=-id&limit=1":    {"dave"},
		"?username=acme":           {"acme"},
		"?username__in=acme,carol": {"carol", "acme"},
		"?username__icontains=A":   {"dave", "carol", "acme", "admin"},
		"?username__contains=A":    {},
		"?username__iexact=ADMIN":  {"admin"},
		"?is_staff=true":           {"admin"},
		"?is_active=false":         {"dave"},
		"?kind=robot":              {},
		"?id=" + id:                {"acme"},
		"?id__in=" + id + ",77":    {"acme"},
		"?pulp_href__in=" + pulp.UserHref(w.userID("acme")): {"acme"},
		"?pulp_href__in=/pulp/api/v3/groups/" + id + "/":    {}, // another collection's id
		"?prn__in=prn:auth.user:" + id:                      {"acme"},
		"?q=username%3Dacme%20OR%20is_staff%3Dtrue":         {"acme", "admin"},
		"?username=%27%20OR%201%3D1--":                      {},
	} {
		for _, user := range []string{"", "carol"} {
			r := w.do(call{path: "users/" + query, user: user})
			got := []string{}
			for _, v := range r.body.(map[string]any)["results"].([]any) {
				got = append(got, v.(map[string]any)["username"].(string))
			}
			if r.StatusCode != 200 || !slices.Equal(got, want) {
				t.Errorf("%q, user %q: %d %v, want %v", query, user, r.StatusCode, got, want)
			}
			if strings.Contains(r.raw, "$2a$") || strings.Contains(r.raw, "hash") {
				t.Errorf("%q shows a hash: %s", query, r.raw)
			}
		}
	}
	for _, field := range []string{
		"password", "password__startswith", "password_hash", "user__password__startswith", "hash", "external_id", "groups__name",
		"auth_token__key", "username__regex", "is_superuser", "namespace_id", "pulp_id__in",
	} {
		w.expect(call{path: "users/?" + field + "=%24"}, 400, `{"errors":["Invalid Filter: '`+field+`'"]}`)
		w.expect(
			call{path: "users/?q=" + field + url.QueryEscape(`="$"`)},
			400,
			`{"q":["Filter '`+field+`' does not exist."]}`,
		)
	}
	for _, field := range []string{"password", "-password", "password_hash", "external_id", "u.password_hash", "checked"} {
		w.expect(call{path: "users/?ordering=" + field}, 400,
			`{"ordering":["Select a valid choice. `+field+` is not one of the available choices."]}`)
	}
	w.expect(
		call{path: "users/?fields=password,password_hash,hash&username=dave"},
		200,
		`{"count":1,"next":null,"previous":null,"results":[{}]}`,
	)
	w.expect(call{path: "users/?username=%00"}, 400, "")
	w.expect(
		call{path: "users/?username=" + strings.Repeat("a", 10_000)},
		200,
		`{"count":0,"next":null,"previous":null,"results":[]}`,
	)
	w.expect(call{path: "users/?id=abc"}, 400, `{"id":["Enter a number."]}`)
	w.expect(call{path: "users/?pulp_href__in=abc"}, 400, `["URI not valid: abc"]`)
	w.expect(call{path: "users/?prn__in=abc"}, 400, `["Not a valid PRN: abc, must start with 'prn:'"]`)
	w.expect(
		call{path: "users/?username=dave&fields=username,groups"},
		200,
		`{"count":1,"next":null,"previous":null,"results":[{"groups":[],"username":"dave"}]}`,
	)
}

// TestOwnUser covers the rights of users without roles.
func TestOwnUser(t *testing.T) {
	t.Parallel()
	w := newAccountWorld(t)
	own := w.userHref("carol")
	w.expect(call{path: own, user: "carol"}, 200, "")
	w.expect(call{path: w.userHref("acme"), user: "carol"}, 404, `{"detail":"No User matches the given query."}`)
	if r := w.do(call{path: "users/", user: "carol"}); r.body.(map[string]any)["count"] != 1.0 {
		t.Errorf("carol sees %s", r.raw)
	}
	w.expect(call{path: "users/", user: "-"}, 401, "")
	for body, status := range map[string]int{
		`{"first_name":"Carol","email":"carol@example.com"}`:     200,
		`{"username":"carol","is_staff":false,"is_active":true}`: 200, // as they are
		`{"password":"carols-New-Secret"}`:                       200,
		`{"is_staff":true}`:                                      403,
		`{"is_active":false}`:                                    403,
		`{"username":"admin2"}`:                                  403,
		`{"first_name":"Carol","last_name":"x","is_staff":true}`: 403,
		`{"groups":[{"name":"admins"}]}`:                         200, // ignored
		`{"password":"12345678"}`:                                400,
		`{"is_superuser":true}`:                                  400,
	} {
		w.expect(call{method: "PATCH", path: own, user: "carol", json: body}, status, "")
	}
	if u := w.storedUser("carol"); u.Staff || !u.Active || u.LastName != "" || u.FirstName != "Carol" {
		t.Errorf("carol is %+v", u)
	}
	for name, c := range map[string]struct {
		token, json string
		status      int
	}{
		"a token":                     {"any", `{"first_name":"C"}`, 200},
		"a token, the password":       {"any", `{"password":"stolen-Secret9"}`, 403},
		"a certificate":               {"certificate", `{"first_name":"C"}`, 200},
		"a certificate, the password": {"certificate", `{"password":"stolen-Secret9"}`, 403},
		"a limited token":             {"limited", `{"first_name":"C"}`, 403},
		"a limited token, a password": {"limited", `{"password":"stolen-Secret9"}`, 403},
	} {
		for _, user := range []string{"carol", "admin"} {
			r := w.do(call{
				method: "PATCH", path: w.userHref(user), user: user, json: c.json, header: map[string]string{"Token": c.token},
			})
			if r.StatusCode != c.status {
				t.Errorf("%s of %s: %d %s, want %d", name, user, r.StatusCode, r.raw, c.status)
			}
		}
	}
	limited := map[string]string{"Token": "limited"}
	w.expect(call{path: w.userHref("carol"), header: limited}, 404, "")
	w.expect(call{method: "POST", path: "users/", json: `{"username":"x"}`, header: limited}, 403, "")
	w.expect(call{method: "DELETE", path: own, user: "carol"}, 403, "")
	w.expect(call{method: "DELETE", path: w.userHref("acme"), user: "carol"}, 404, "")
	w.expect(call{method: "POST", path: "users/", user: "carol", json: `{"username":"x"}`}, 403, "")
	w.expect(call{method: "POST", path: "users/", user: "carol", json: `{`}, 403, "") // before the body is read
}

// TestManagersOfUsersAreNoAdministrators gives a user all permissions on users.
func TestManagersOfUsersAreNoAdministrators(t *testing.T) {
	t.Parallel()
	w := newAccountWorld(t)
	w.grant("carol", "core.user_creator", "")
	w.grant("carol", "core.user_owner", "")
	as := func(method, path, body string, status int) {
		t.Helper()
		w.expect(call{method: method, path: path, user: "carol", json: body}, status, "")
	}
	admin, acme := w.userHref("admin"), w.userHref("acme")
	as("POST", "users/", `{"username":"root2","is_staff":true}`, 403)
	as("POST", "users/", `{"username":"eve","password":"long-Secret-7","is_staff":false}`, 201)
	as("PATCH", acme, `{"is_staff":true}`, 403)
	as("PATCH", w.userHref("carol"), `{"is_staff":true}`, 403)
	as("PATCH", acme, `{"password":"long-Secret-7","is_active":false}`, 200)
	as("PATCH", admin, `{"password":"long-Secret-7"}`, 403)
	as("PATCH", admin, `{"first_name":"x"}`, 403)
	as("PATCH", admin, `{"is_active":false}`, 403)
	as("PUT", admin, `{"username":"admin"}`, 403)
	as("DELETE", admin, "", 403)
	as("DELETE", acme, "", 204)
	if u := w.storedUser("admin"); !u.Staff || !u.Active || u.Hash != "x" || u.FirstName != "" {
		t.Errorf("the administrator is %+v", u)
	}
}

// TestTheLastAdministratorStays tries to lose the only local administrator.
func TestTheLastAdministratorStays(t *testing.T) {
	t.Parallel()
	w := newAccountWorld(t)
	admin := w.userHref("admin")
	const refused = `{"detail":"This is the last active administrator with a password. ` +
		`Create another one before you disable, delete or demote it."}`
	for _, body := range []string{`{"is_staff":false}`, `{"is_active":false}`, `{"password":null}`} {
		w.expect(call{method: "PATCH", path: admin, json: body}, 409, refused)
	}
	w.expect(call{method: "DELETE", path: admin}, 409, refused)
	w.expect(
		call{method: "POST", path: "users/", json: `{"username":"second","is_staff":true}`},
		201,
		"",
	) // without a password
	w.expect(call{method: "DELETE", path: admin}, 409, refused)
	w.expect(call{method: "PATCH", path: w.userHref("second"), json: `{"password":"long-Secret-7"}`}, 200, "")
	w.expect(call{method: "PATCH", path: admin, json: `{"is_staff":false}`}, 200, "")
	w.expect(call{method: "DELETE", path: w.userHref("second"), user: "second"}, 409, refused)
}

// TestAccountsOfOtherKinds edits accounts that are no local users.
func TestAccountsOfOtherKinds(t *testing.T) {
	t.Parallel()
	w := newAccountWorld(t)
	for _, u := range []pulp.User{
		{Username: "robot$x", Kind: pulp.Robot, Active: true}, {Username: "oidc:rule", Kind: pulp.RuleIdentity, Active: true},
		{Username: "ldap user", Kind: pulp.ExternalUser, Source: "ldap", Active: true, FirstName: "L"},
	} {
		made, err := w.store.Accounts.CreateUser(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		href := pulp.UserHref(made.ID)
		for field, value := range map[string]string{
			"username": `"other"`, "password": `"long-Secret-7"`, "is_staff": "true", "first_name": `"N"`, "email": `"a@b.example"`,
		} {
			refused := `{"` + field + `":["Only is_active of an account of the kind '` + string(u.Kind) + `' can be changed."]}`
			w.expect(call{method: "PATCH", path: href, json: `{"` + field + `":` + value + `}`}, 400, refused)
		}
		whole := fmt.Sprintf(`{"username":%q,"first_name":%q,"is_active":false}`, u.Username, u.FirstName)
		w.expect(call{method: "PUT", path: href, json: whole}, 200, "")
		if stored := w.storedUser(u.Username); stored.Active || stored.Kind != u.Kind {
			t.Errorf("%+v", stored)
		}
	}
	if got := w.results("users/?source=ldap", "kind"); !slices.Equal(got, []string{"external"}) {
		t.Errorf("users of LDAP: %v", got)
	}
}

// TestPasswordsAreInNoAuditEntry searches the log of the server, which has the audit entries.
func TestPasswordsAreInNoAuditEntry(t *testing.T) {
	t.Parallel()
	var logged strings.Builder
	w := newWorld(t, func(o *api.Options) { o.Log = slog.New(slog.NewTextHandler(&logged, nil)) })
	w.expect(call{method: "POST", path: "users/", json: `{"username":"x1","password":"hunter2-hunter3"}`}, 201, "")
	w.expect(call{method: "PATCH", path: w.userHref("x1"), json: `{"password":"hunter2-hunter4"}`}, 200, "")
	w.expect(call{method: "PATCH", path: w.userHref("x1"), json: `{"password":"hunter2","username":""}`}, 400, "")
	w.server.Close()
	if text := logged.String(); strings.Contains(text, "hunter2") || strings.Contains(text, "$2a$") {
		t.Errorf("logged: %s", text)
	}
}
