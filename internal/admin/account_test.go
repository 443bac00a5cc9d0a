package admin_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/config"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/admin"
	"github.com/countersign/countersign/internal/app"
	"github.com/countersign/countersign/internal/app/apptest"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/storetest"
)

// installation is a database whose accounts a test manages with commands.
type installation struct {
	config config.Config
	log    strings.Builder
}

// newInstallation returns an empty database on the engine that pgtest.Variable names.
func newInstallation(t *testing.T) *installation {
	t.Helper()
	c := apptest.Load(t)
	if url := pgtest.URL(t); url != "" {
		c.DatabaseURL = url
	}
	i := &installation{config: c}
	i.run(t, func(ctx context.Context, a *admin.Admin) error { return a.Migrate(ctx) })
	return i
}

// call runs a command with an input and returns its output and error.
func (i *installation) call(t *testing.T, input string, command func(context.Context, *admin.Admin) error) (string, error) {
	t.Helper()
	parts, log := apptest.New(i.config)
	out := &apptest.Buffer{}
	a := admin.New(admin.Options{
		App: parts, Config: i.config, In: strings.NewReader(input), Out: out, ErrOut: &apptest.Buffer{},
	})
	err := command(t.Context(), a)
	i.log.WriteString(log.String())
	return out.String(), err
}

// run runs a command that must succeed, with a password as its input, and returns its output.
func (i *installation) run(t *testing.T, command func(context.Context, *admin.Admin) error) string {
	t.Helper()
	out, err := i.call(t, "correct horse\n", command)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// refuse runs a command that must fail with an error that contains a text.
func (i *installation) refuse(t *testing.T, want string, command func(context.Context, *admin.Admin) error) {
	t.Helper()
	out, err := i.call(t, "correct horse\n", command)
	if err == nil || !strings.Contains(err.Error(), want) || out != "" {
		t.Errorf("error %v, output %q, want an error with %q", err, out, want)
	}
}

// store calls do with the store.
func (i *installation) store(t *testing.T, do func(*store.Store)) {
	t.Helper()
	parts, _ := apptest.New(i.config)
	if err := parts.WithStore(t.Context(), func(s *store.Store) error { do(s); return nil }); err != nil {
		t.Fatal(err)
	}
}

// audited verifies that the audit log has a number of entries of an action by the operator.
func (i *installation) audited(t *testing.T, action string, want int) {
	t.Helper()
	entry := `who="command line" kind=command action="` + action + `"`
	if got := strings.Count(i.log.String(), entry); got != want {
		t.Errorf("%d audit entries %q, want %d:\n%s", got, action, want, i.log.String())
	}
	if strings.Contains(i.log.String(), "correct horse") {
		t.Errorf("the log has a password:\n%s", i.log.String())
	}
}

func addUser(n admin.NewUser) func(context.Context, *admin.Admin) error {
	n.PasswordStdin = true
	return func(ctx context.Context, a *admin.Admin) error { return a.AddUser(ctx, n) }
}

func listUsers(ctx context.Context, a *admin.Admin) error { return a.ListUsers(ctx) }

// fields returns the columns of the line of a table that begins with a name.
func fields(t *testing.T, table, name string) []string {
	t.Helper()
	for _, line := range lines(table) {
		if columns := strings.Fields(line); len(columns) > 0 && columns[0] == name {
			return columns[1:]
		}
	}
	t.Fatalf("no line for %s in\n%s", name, table)
	return nil
}

func lines(text string) []string { return strings.Split(strings.TrimSpace(text), "\n") }

// expectColumns compares the columns after a name.
func expectColumns(t *testing.T, table, name, want string) {
	t.Helper()
	if got := strings.Join(fields(t, table, name), " "); got != want {
		t.Errorf("%s: %q, want %q", name, got, want)
	}
}

// TestUserCommands creates, changes, disables and deletes users.
func TestUserCommands(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	i.run(t, addUser(admin.NewUser{Name: "root", Admin: true}))
	i.run(t, addUser(admin.NewUser{Name: "alice", Email: "alice@corp.example", FirstName: "A", LastName: "L"}))
	i.refuse(t, "already an account named alice", addUser(admin.NewUser{Name: "alice"}))
	i.refuse(t, "not a valid name", addUser(admin.NewUser{Name: "a b"}))
	i.refuse(t, `"a\nb" is not a valid name`, addUser(admin.NewUser{Name: "a\nb"}))
	table := i.run(t, listUsers)
	expectColumns(t, table, "root", "user - yes yes - -")
	expectColumns(t, table, "alice", "user - no yes - alice@corp.example")

	yes, no, mail := true, false, "new@corp.example"
	edit := func(e admin.UserEdit) func(context.Context, *admin.Admin) error {
		return func(ctx context.Context, a *admin.Admin) error { return a.EditUser(ctx, e) }
	}
	active := func(name string, is bool) func(context.Context, *admin.Admin) error {
		return func(ctx context.Context, a *admin.Admin) error { return a.SetActive(ctx, name, is) }
	}
	remove := func(name string) func(context.Context, *admin.Admin) error {
		return func(ctx context.Context, a *admin.Admin) error { return a.RemoveUser(ctx, name) }
	}
	i.refuse(t, "nothing to change", edit(admin.UserEdit{Name: "alice"}))
	i.refuse(t, "no account named bob", edit(admin.UserEdit{Name: "bob", Admin: &yes}))
	i.run(t, edit(admin.UserEdit{Name: "alice", Admin: &yes, Email: &mail}))
	i.run(t, active("root", false))
	table = i.run(t, listUsers)
	expectColumns(t, table, "alice", "user - yes yes - new@corp.example")
	expectColumns(t, table, "root", "user - yes no - -")
	for name, command := range map[string]func(context.Context, *admin.Admin) error{
		"disable": active("alice", false), "demote": edit(admin.UserEdit{Name: "alice", Admin: &no}), "remove": remove("alice"),
	} {
		t.Run(name+" the last administrator", func(t *testing.T) {
			i.refuse(t, "the last active administrator", command)
		})
	}
	i.run(t, active("root", true))
	i.run(t, edit(admin.UserEdit{Name: "alice", Admin: &no}))
	i.run(t, remove("alice"))
	i.refuse(t, "no account named alice", remove("alice"))
	if table := i.run(t, listUsers); strings.Contains(table, "alice") {
		t.Errorf("alice is still there:\n%s", table)
	}
	i.audited(t, "create user", 2)
	i.audited(t, "edit user", 2)
	i.audited(t, "disable user", 1)
	i.audited(t, "enable user", 1)
	i.audited(t, "delete user", 1)
}

// TestUserPasswords verifies that passwords come from the standard input only, and which accounts have one.
func TestUserPasswords(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	i.run(t, addUser(admin.NewUser{Name: "alice"}))
	for input, want := range map[string]string{
		"": "no password", "\n": "no password", "one\ntwo\n": "more than one line", "a\rb": "more than one line",
		strings.Repeat("x", 73): "72 bytes", "short": "too short", "alice2026": "similar to the username",
	} {
		command := func(ctx context.Context, a *admin.Admin) error { return a.SetPassword(ctx, "alice", true) }
		if out, err := i.call(t, input, command); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the input %q: %v, %q, want an error with %q", input, err, out, want)
		}
	}
	i.refuse(t, "--password-stdin", func(ctx context.Context, a *admin.Admin) error { return a.SetPassword(ctx, "alice", false) })
	i.refuse(t, "no account named bob", func(ctx context.Context, a *admin.Admin) error { return a.SetPassword(ctx, "bob", true) })
	i.store(t, func(s *store.Store) {
		if _, err := s.Accounts.CreateUser(t.Context(), pulp.User{
			Username: "eve\x1b[31m", Kind: pulp.ExternalUser, Source: "ldap", Active: true,
		}); err != nil {
			t.Fatal(err)
		}
	})
	i.refuse(t, "(external, ldap) has no password here", func(ctx context.Context, a *admin.Admin) error {
		return a.SetPassword(ctx, "eve\x1b[31m", true)
	})
	yes := true
	i.refuse(t, "its source decides", func(ctx context.Context, a *admin.Admin) error {
		return a.EditUser(ctx, admin.UserEdit{Name: "eve\x1b[31m", Admin: &yes})
	})
	i.store(t, func(s *store.Store) {
		if _, err := s.Accounts.CreateUser(t.Context(), pulp.User{Username: "acme+builder", Kind: pulp.Robot, Active: true}); err != nil {
			t.Fatal(err)
		}
	})
	i.refuse(t, "acme+builder (robot) cannot be an administrator", func(ctx context.Context, a *admin.Admin) error {
		return a.EditUser(ctx, admin.UserEdit{Name: "acme+builder", Admin: &yes})
	})
	if table := i.run(t, listUsers); strings.Contains(table, "\x1b") || !strings.Contains(table, `"eve\x1b[31m"  external  ldap    no             removed`) {
		t.Errorf("control characters of a name: %q", table)
	}
	if _, err := i.call(t, "new password\r\n", func(ctx context.Context, a *admin.Admin) error { return a.SetPassword(ctx, "alice", true) }); err != nil {
		t.Fatal(err)
	}
	i.audited(t, "change password", 1)
	s := apptest.StartUntil(t, i.config, http.StatusOK)
	for password, want := range map[string]int{"new password": http.StatusOK, "correct horse": http.StatusUnauthorized} {
		if got := s.Login(t, "alice", password); got != want {
			t.Errorf("login of alice with %q: status %d, want %d", password, got, want)
		}
	}
}

// TestGroupAndRoleCommands gives permissions to users and groups.
func TestGroupAndRoleCommands(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	i.run(t, addUser(admin.NewUser{Name: "alice"}))
	i.store(t, func(s *store.Store) { storetest.Target(t, s, "acme/app"); storetest.AddService(t, s, "release") })
	group := func(do func(*admin.Admin, context.Context) error) func(context.Context, *admin.Admin) error {
		return func(ctx context.Context, a *admin.Admin) error { return do(a, ctx) }
	}
	i.run(t, group(func(a *admin.Admin, ctx context.Context) error { return a.AddGroup(ctx, "developers") }))
	i.refuse(t, "already a group", group(func(a *admin.Admin, ctx context.Context) error { return a.AddGroup(ctx, "developers") }))
	for _, name := range []string{"", " x", "a\tb", strings.Repeat("x", 151)} {
		i.refuse(t, "not a valid name", group(func(a *admin.Admin, ctx context.Context) error { return a.AddGroup(ctx, name) }))
	}
	i.run(t, group(func(a *admin.Admin, ctx context.Context) error { return a.AddMember(ctx, "developers", "alice") }))
	i.refuse(t, "no account named bob", group(func(a *admin.Admin, ctx context.Context) error { return a.AddMember(ctx, "developers", "bob") }))
	i.refuse(t, "no group named ops", group(func(a *admin.Admin, ctx context.Context) error { return a.AddMember(ctx, "ops", "alice") }))
	table := i.run(t, group(func(a *admin.Admin, ctx context.Context) error { return a.ListGroups(ctx) }))
	expectColumns(t, table, "developers", "alice")
	expectColumns(t, i.run(t, listUsers), "alice", "user - no yes developers -")

	grant := func(role string, r admin.RoleScope) func(context.Context, *admin.Admin) error {
		return func(ctx context.Context, a *admin.Admin) error { return a.GrantRole(ctx, role, r) }
	}
	const owner, consumer = "container.containernamespace_owner", "container.containerdistribution_consumer"
	i.run(t, grant(owner, admin.RoleScope{User: "alice", Namespace: "acme"}))
	i.run(t, grant(consumer, admin.RoleScope{Group: "developers"}))
	i.run(t, grant(consumer, admin.RoleScope{Group: "developers", Distribution: "acme/app"}))
	i.run(t, grant("core.signingservice_user", admin.RoleScope{User: "alice", SigningService: "release"}))
	i.refuse(t, "already assigned", grant(owner, admin.RoleScope{User: "alice", Namespace: "acme"}))
	i.refuse(t, "no role container.none", grant("container.none", admin.RoleScope{User: "alice"}))
	i.refuse(t, "a user or --group", grant(owner, admin.RoleScope{Namespace: "acme"}))
	i.refuse(t, "either a user or --group", grant(owner, admin.RoleScope{User: "alice", Group: "developers"}))
	i.refuse(t, "at most one object", grant(owner, admin.RoleScope{User: "alice", Namespace: "acme", Remote: "x"}))
	i.refuse(t, "no namespace named team; the first push", grant(owner, admin.RoleScope{User: "alice", Namespace: "team"}))
	i.refuse(t, "no distribution with the base path", grant(consumer, admin.RoleScope{User: "alice", Distribution: "team/app"}))
	i.refuse(t, "does not carry any permission", grant(owner, admin.RoleScope{User: "alice", SigningService: "release"}))

	list := func(r admin.RoleScope) string {
		return i.run(t, func(ctx context.Context, a *admin.Admin) error { return a.ListRoles(ctx, r) })
	}
	expectColumns(t, list(admin.RoleScope{User: "alice"}), owner, "alice - namespace acme")
	expectColumns(t, list(admin.RoleScope{Namespace: "acme"}), owner, "alice - namespace acme")
	if got := lines(list(admin.RoleScope{Group: "developers"})); len(got) != 3 || !strings.HasSuffix(got[1], "all objects") ||
		!strings.HasSuffix(got[2], "distribution acme/app") {
		t.Errorf("roles of the group:\n%s", strings.Join(got, "\n"))
	}
	if got := lines(list(admin.RoleScope{})); len(got) != 5 {
		t.Errorf("all roles:\n%s", strings.Join(got, "\n"))
	}
	revoke := func(ctx context.Context, a *admin.Admin) error {
		return a.RevokeRole(ctx, owner, admin.RoleScope{User: "alice", Namespace: "acme"})
	}
	i.run(t, revoke)
	i.refuse(t, "not assigned", revoke)
	show := func(role string) string {
		return i.run(t, func(ctx context.Context, a *admin.Admin) error { return a.ShowRole(ctx, role) })
	}
	if got := show("core.signingservice_user"); got != "core.use_signingservice\ncore.view_signingservice\n" {
		t.Errorf("permissions of a role: %q", got)
	}
	expectColumns(t, show(""), owner, "built in")
	i.refuse(t, "no role x", func(ctx context.Context, a *admin.Admin) error { return a.ShowRole(ctx, "x") })

	i.run(t, group(func(a *admin.Admin, ctx context.Context) error { return a.RemoveMember(ctx, "developers", "alice") }))
	i.refuse(t, "alice is not a member", group(func(a *admin.Admin, ctx context.Context) error { return a.RemoveMember(ctx, "developers", "alice") }))
	i.run(t, group(func(a *admin.Admin, ctx context.Context) error { return a.RemoveGroup(ctx, "developers") }))
	if got := lines(list(admin.RoleScope{})); len(got) != 2 {
		t.Errorf("roles after the deletion of the group:\n%s", strings.Join(got, "\n"))
	}
	for action, n := range map[string]int{
		"create group": 1, "delete group": 1, "add member": 1, "remove member": 1, "grant role": 4, "revoke role": 1,
	} {
		i.audited(t, action, n)
	}
}

// TestRoleEntriesNameHrefs verifies that the audit entries of commands name objects by the hrefs of the REST API, so that a
// search for an object finds the changes of both.
func TestRoleEntriesNameHrefs(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	i.run(t, addUser(admin.NewUser{Name: "alice"}))
	i.store(t, func(s *store.Store) { storetest.Target(t, s, "acme/app"); storetest.AddService(t, s, "release") })
	for _, test := range []struct {
		role, collection string
		on               admin.RoleScope
	}{
		{"container.containernamespace_owner", pulp.NamespaceCollection, admin.RoleScope{Namespace: "acme"}},
		{"container.containerrepository_owner", pulp.PushCollection, admin.RoleScope{Repository: "acme/app"}},
		{"container.containerdistribution_owner", pulp.DistributionCollection, admin.RoleScope{Distribution: "acme/app"}},
		{"core.signingservice_user", pulp.SigningServiceCollection, admin.RoleScope{SigningService: "release"}},
	} {
		test.on.User = "alice"
		i.run(t, func(ctx context.Context, a *admin.Admin) error { return a.GrantRole(ctx, test.role, test.on) })
		i.run(t, func(ctx context.Context, a *admin.Admin) error { return a.RevokeRole(ctx, test.role, test.on) })
		for _, action := range []string{"grant role", "revoke role"} {
			if entry := `action="` + action + `" object=` + pulp.Root + test.collection; strings.Count(i.log.String(), entry) != 1 {
				t.Errorf("no entry %s:\n%s", entry, i.log.String())
			}
		}
	}
	i.refuse(t, "no signing service named x; `list-signing-services`", func(ctx context.Context, a *admin.Admin) error {
		return a.GrantRole(ctx, "core.signingservice_user", admin.RoleScope{User: "alice", SigningService: "x"})
	})
}

// TestResetAdminPasswordRepairs verifies that the command makes admin an active administrator again, whatever became of
// the account.
func TestResetAdminPasswordRepairs(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(*store.Store, pulp.User) error{
		"deleted": func(s *store.Store, u pulp.User) error { return s.Accounts.DeleteUser(t.Context(), u.ID, nil) },
		"disabled": func(s *store.Store, u pulp.User) error {
			_, err := s.Accounts.PutUser(t.Context(), u.Username, u.Hash, true, false)
			return err
		},
		"demoted": func(s *store.Store, u pulp.User) error {
			_, err := s.Accounts.PutUser(t.Context(), u.Username, u.Hash, false, true)
			return err
		},
		"of LDAP": func(s *store.Store, u pulp.User) error {
			if err := s.Accounts.DeleteUser(t.Context(), u.ID, nil); err != nil {
				return err
			}
			_, err := s.Accounts.CreateUser(t.Context(), pulp.User{Username: u.Username, Kind: pulp.ExternalUser, Source: "ldap", Active: true})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newInstallation(t)
			i.run(t, addUser(admin.NewUser{Name: "other", Admin: true}))
			reset := func(ctx context.Context, a *admin.Admin) error { return a.ResetAdminPassword(ctx, "new password") }
			i.run(t, reset)
			var lost access.APIToken
			i.store(t, func(s *store.Store) {
				u, err := s.Accounts.UserByName(t.Context(), app.AdminName)
				if err == nil {
					lost, _, err = s.Accounts.CreateAPIToken(t.Context(), access.APIToken{AccountID: u.ID, Name: "lost"})
				}
				if err == nil {
					err = damage(s, u)
				}
				if err != nil {
					t.Fatal(err)
				}
			})
			said := i.run(t, reset)
			if want := name == "disabled" || name == "demoted"; strings.Contains(said, "that were deleted: 1\n") != want {
				t.Errorf("the output names a deleted API token: %t: %q", !want, said)
			}
			i.store(t, func(s *store.Store) {
				if _, err := s.Accounts.APIToken(t.Context(), lost.ID); !fault.Is(err, fault.NotFound) {
					t.Errorf("the API token of admin: %v", err)
				}
			})
			expectColumns(t, i.run(t, listUsers), app.AdminName, "user - yes yes - -")
			i.audited(t, "reset admin password", 2)
		})
	}
}

// TestPasswordOfATerminal verifies that a file that is no terminal is not asked for a password.
func TestPasswordOfATerminal(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	f, err := os.Open(filepath.Join("/dev", "null"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	parts, _ := apptest.New(i.config)
	a := admin.New(admin.Options{App: parts, Config: i.config, In: f, Out: &apptest.Buffer{}, ErrOut: &apptest.Buffer{}})
	if err := a.AddUser(t.Context(), admin.NewUser{Name: "alice"}); err == nil || !strings.Contains(err.Error(), "--password-stdin") {
		t.Errorf("AddUser without a terminal = %v, want an error with --password-stdin", err)
	}
}
