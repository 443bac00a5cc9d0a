package accounts_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestNamedAssignments lists assignments on each kind of objects with the names of the objects.
func TestNamedAssignments(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	service := storetest.AddService(t, s, "release")
	alice := user(t, s, "alice")
	group, err := s.Accounts.CreateGroup(t.Context(), "developers", 0)
	if err != nil {
		t.Fatal(err)
	}
	remoteID, taskID := pulp.NewID(), pulp.NewID()
	storetest.Exec(t, s, `INSERT INTO remote (id, name, url, upstream_name, policy, created, updated) VALUES ($1, 'acme/remote', 'https://r.example', 'x', 'immediate', 1, 1)`, remoteID)
	byAlice := accounts.Assignee{Account: alice.ID, Name: "alice"}
	byGroup := accounts.Assignee{Group: group.ID, Name: "developers"}
	named := func(kind access.Kind, name, wantID string) string {
		t.Helper()
		key, err := s.Accounts.ObjectNamed(t.Context(), kind, name)
		if err != nil || key != access.Key(kind, wantID) {
			t.Errorf("ObjectNamed(%s, %s) = %s, %v, want the id %s", kind, name, key, err, wantID)
		}
		return key
	}
	namespace := named(access.Namespace, "acme", to.Distribution.NamespaceID)
	for _, v := range []struct {
		role, object string
		to           accounts.Assignee
	}{
		{"container.containernamespace_owner", namespace, byAlice},
		{"container.containernamespace_owner", namespace, byGroup},
		{"container.containerrepository_viewer", named(access.Repository, to.Repository.Name, to.Repository.ID), byAlice},
		{"container.containerdistribution_owner", named(access.Distribution, "acme/app", to.Distribution.ID), byAlice},
		{"container.containerremote_owner", named(access.Remote, "acme/remote", remoteID), byAlice},
		{"core.signingservice_user", named(access.SigningService, "release", service.ID), byAlice},
		{"core.group_owner", access.Key(access.Group, strconv.FormatInt(group.ID, 10)), byAlice},
		{"core.task_viewer", "", byGroup},
	} {
		if _, err := s.Accounts.AssignRole(t.Context(), v.role, v.object, v.to); err != nil {
			t.Fatalf("%s on %q: %v", v.role, v.object, err)
		}
	}
	if err := s.DB.InTx(t.Context(), func(x *sqldb.Tx) error {
		return accounts.Assign(x, alice.ID, access.TaskOwner, access.Key(access.Task, taskID))
	}); err != nil {
		t.Fatal(err)
	}
	ofAlice := []accounts.NamedAssignment{
		{Role: "container.containerdistribution_owner", Account: "alice", Kind: access.Distribution, Object: "acme/app"},
		{Role: "container.containernamespace_owner", Account: "alice", Kind: access.Namespace, Object: "acme"},
		{Role: "container.containerremote_owner", Account: "alice", Kind: access.Remote, Object: "acme/remote"},
		{Role: "container.containerrepository_viewer", Account: "alice", Kind: access.Repository, Object: to.Repository.Name},
		{Role: "core.group_owner", Account: "alice", Kind: access.Group, Object: "developers"},
		{Role: "core.signingservice_user", Account: "alice", Kind: access.SigningService, Object: "release"},
		{Role: "core.task_owner", Account: "alice", Kind: access.Task, Object: taskID},
	}
	ofGroup := []accounts.NamedAssignment{
		{Role: "container.containernamespace_owner", Group: "developers", Kind: access.Namespace, Object: "acme"},
		{Role: "core.task_viewer", Group: "developers"},
	}
	for name, tt := range map[string]struct {
		filter accounts.AssignmentFilter
		want   []accounts.NamedAssignment
	}{
		"of alice":         {filter: accounts.AssignmentFilter{Assignee: byAlice}, want: ofAlice},
		"of the group":     {filter: accounts.AssignmentFilter{Assignee: byGroup}, want: ofGroup},
		"on the namespace": {filter: accounts.AssignmentFilter{Object: namespace}, want: []accounts.NamedAssignment{ofGroup[0], ofAlice[1]}},
		"of alice there":   {filter: accounts.AssignmentFilter{Assignee: byAlice, Object: namespace}, want: ofAlice[1:2]},
	} {
		got, err := s.Accounts.NamedAssignments(t.Context(), tt.filter)
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("assignments %s: %v (-want +got):\n%s", name, err, diff)
		}
	}
	if all, err := s.Accounts.NamedAssignments(t.Context(), accounts.AssignmentFilter{}); err != nil || len(all) != len(ofAlice)+len(ofGroup) {
		t.Errorf("all assignments: %d, %v, want %d", len(all), err, len(ofAlice)+len(ofGroup))
	}
	for kind, name := range map[access.Kind]string{access.Namespace: "acm", access.Distribution: "acme", access.Remote: ""} {
		if key, err := s.Accounts.ObjectNamed(t.Context(), kind, name); !fault.Is(err, fault.NotFound) {
			t.Errorf("ObjectNamed(%s, %q) = %s, %v, want NotFound", kind, name, key, err)
		}
	}
	if _, err := s.Accounts.ObjectNamed(t.Context(), access.Task, "x"); err == nil {
		t.Error("a task has a name")
	}
}

// TestOverviews lists users, groups, memberships and roles in the order of their names.
func TestOverviews(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	bob, alice := user(t, s, "bob"), user(t, s, "alice")
	for _, name := range []string{"ops", "developers"} {
		g, err := s.Accounts.CreateGroup(t.Context(), name, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Accounts.AddMember(t.Context(), g.ID, bob.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DB.InTx(t.Context(), func(x *sqldb.Tx) error {
		_, err := accounts.SetMemberships(x, alice.ID, "ldap", []string{"ops"})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	users, err := s.Accounts.Users(t.Context())
	if err != nil || len(users) != 2 || users[0].Username != "alice" || users[1].ID != bob.ID {
		t.Errorf("Users = %+v, %v", users, err)
	}
	groups, err := s.Accounts.Groups(t.Context())
	if err != nil || len(groups) != 2 || groups[0].Name != "developers" || groups[1].Name != "ops" {
		t.Fatalf("Groups = %+v, %v", groups, err)
	}
	memberships, err := s.Accounts.Memberships(t.Context())
	want := []accounts.Membership{
		{AccountID: bob.ID, Account: "bob", GroupID: groups[0].ID, Group: "developers"},
		{AccountID: alice.ID, Account: "alice", GroupID: groups[1].ID, Group: "ops", Source: "ldap"},
		{AccountID: bob.ID, Account: "bob", GroupID: groups[1].ID, Group: "ops"},
	}
	if diff := cmp.Diff(want, memberships); err != nil || diff != "" {
		t.Errorf("Memberships: %v (-want +got):\n%s", err, diff)
	}
	roles, err := s.Accounts.Roles(t.Context())
	byName := func(a, b pulp.Role) int { return strings.Compare(a.Name, b.Name) }
	if err != nil || len(roles) != len(access.LockedRoles) || !slices.IsSortedFunc(roles, byName) || !roles[0].Locked {
		t.Errorf("Roles = %+v, %v", roles, err)
	}
}
