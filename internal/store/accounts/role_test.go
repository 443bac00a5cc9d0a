package accounts_test

import (
	"errors"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

func TestRoles(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	made, err := s.Accounts.CreateRole(t.Context(), pulp.Role{
		Name: "puller", Description: new("pulls"),
		Permissions: []string{
			string(access.PullDistribution),
			string(access.ViewDistribution),
			string(access.PullDistribution),
		},
	})
	want := []string{"container.pull_containerdistribution", "container.view_containerdistribution"}
	if err != nil || made.Name != "puller" || *made.Description != "pulls" || !slices.Equal(made.Permissions, want) ||
		made.Locked {
		t.Fatalf("CreateRole = %+v, %v", made, err)
	}
	if read, err := s.Accounts.RoleByName(t.Context(), "puller"); err != nil || !cmp.Equal(read, made) {
		t.Errorf("RoleByName = %+v, %v, want %+v", read, err, made)
	}
	for _, name := range []string{"puller", access.GroupOwner} {
		_, err = s.Accounts.CreateRole(t.Context(), pulp.Role{Name: name})
		wantField(t, err, "name")
	}
	changed, err := s.Accounts.EditRole(t.Context(), made.ID, func(r *pulp.Role) {
		r.Name, r.Description, r.Permissions = "pusher", nil, append(r.Permissions, string(access.PushDistribution))
	})
	if read, readErr := s.Accounts.RoleByName(t.Context(), "pusher"); err != nil || readErr != nil ||
		len(read.Permissions) != 3 ||
		!cmp.Equal(read, changed) {
		t.Errorf("EditRole = %+v, %v; RoleByName = %+v, %v", changed, err, read, readErr)
	}
	_, err = s.Accounts.EditRole(t.Context(), made.ID, func(r *pulp.Role) { r.Name = access.GroupOwner })
	wantField(t, err, "name")
	if err := s.Accounts.DeleteRole(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Accounts.DeleteRole(t.Context(), made.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("DeleteRole of a deleted role: %v", err)
	}
	locked, err := s.Accounts.RoleByName(t.Context(), access.GroupOwner)
	if err != nil || !locked.Locked {
		t.Fatalf("RoleByName = %+v, %v", locked, err)
	}
	if _, err := s.Accounts.EditRole(t.Context(), locked.ID, func(*pulp.Role) {}); !fault.Is(err, fault.Invalid) {
		t.Errorf("EditRole of a locked role: %v", err)
	}
	if err := s.Accounts.DeleteRole(t.Context(), locked.ID); !fault.Is(err, fault.Invalid) {
		t.Errorf("DeleteRole of a locked role: %v", err)
	}
}

// rolesOf returns the roles of an assignee as ROLE@OBJECT.
func rolesOf(t *testing.T, s *store.Store, of accounts.Assignee) []string {
	t.Helper()
	all, err := s.Accounts.AssignmentsOf(t.Context(), of)
	if err != nil {
		t.Fatal(err)
	}
	roles := make([]string, len(all))
	for i, a := range all {
		roles[i] = a.Role + "@" + a.Object
	}
	return roles
}

func TestAssignAndRevoke(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	alice := accounts.Assignee{Account: user(t, s, "alice").ID, Name: "alice"}
	bob := accounts.Assignee{Account: user(t, s, "bob").ID, Name: "bob"}
	g, err := s.Accounts.CreateGroup(t.Context(), "team", 0)
	if err != nil {
		t.Fatal(err)
	}
	team := accounts.Assignee{Group: g.ID, Name: "team"}
	repository := access.Key(access.Repository, to.Repository.ID)
	ids, err := s.Accounts.AssignRole(t.Context(), access.RepositoryOwner, repository, alice, team)
	if err != nil || len(ids) != 2 {
		t.Fatalf("AssignRole = %v, %v", ids, err)
	}
	on, err := s.Accounts.Assignments(t.Context(), repository)
	if err != nil || len(on) != 2 || on[0].ID != ids[0] || on[0].Account != "alice" || on[0].Group != "" ||
		on[0].Role != access.RepositoryOwner ||
		on[0].Repository != to.Repository.Type ||
		on[1].Group != "team" ||
		on[1].AccountID != 0 {
		t.Errorf("Assignments = %+v, %v", on, err)
	}
	for name, c := range map[string]struct {
		role, object string
		to           []accounts.Assignee
		kind         fault.Kind
		text         string
	}{
		"a user who has it": {
			access.RepositoryOwner, repository, []accounts.Assignee{bob, alice},
			fault.Invalid, "The role is already assigned to user 'alice'.",
		},
		"a group that has it": {
			access.RepositoryOwner, repository, []accounts.Assignee{bob, team},
			fault.Invalid, "The role is already assigned to group 'team'.",
		},
		"another type's role": {access.DistributionOwner, repository, []accounts.Assignee{bob}, fault.Invalid,
			"The role 'container.containerdistribution_owner' does not carry any permission for that object."},
		"an absent role": {
			"nope", repository, []accounts.Assignee{bob},
			fault.NotFound, "No Role matches the given query.",
		},
		"an absent object": {
			access.RepositoryOwner, access.Key(access.Repository, pulp.NewID()), []accounts.Assignee{bob},
			fault.NotFound, "The object does not exist.",
		},
		"an absent user": {
			access.RepositoryOwner, repository, []accounts.Assignee{bob, {Account: 1 << 40}},
			fault.NotFound, "No User matches the given query.",
		},
		"an absent group": {
			access.RepositoryOwner, "", []accounts.Assignee{bob, {Group: 1 << 40}},
			fault.NotFound, "No Group matches the given query.",
		},
	} {
		if _, err := s.Accounts.AssignRole(t.Context(), c.role, c.object, c.to...); fault.KindOf(err) != c.kind ||
			err.Error() != c.text {
			t.Errorf("%s: %v, want %s", name, err, c.text)
		}
	}
	if _, err := s.Accounts.AssignRole(t.Context(), access.RepositoryOwner, "planet:1", bob); err == nil {
		t.Error("a role on a planet")
	}
	if roles := rolesOf(t, s, bob); len(roles) != 0 {
		t.Errorf("refused assignments left %v", roles)
	}
	group := access.Key(access.Group, strconv.FormatInt(g.ID, 10))
	if _, err := s.Accounts.AssignRole(t.Context(), access.GroupOwner, group, alice); err != nil {
		t.Errorf("on a group: %v", err)
	}
	if _, err := s.Accounts.AssignRole(t.Context(), access.RepositoryOwner, "", alice); err != nil {
		t.Errorf("on all objects: %v", err)
	}
	if err := s.Accounts.RevokeRole(t.Context(), access.RepositoryOwner, repository, alice, bob); err == nil ||
		err.Error() != "The role is not assigned to user 'bob'." {
		t.Errorf("RevokeRole from bob, who does not have it: %v", err)
	}
	if roles, want := rolesOf(t, s, alice), []string{
		access.RepositoryOwner + "@" + repository, access.GroupOwner + "@" + group, access.RepositoryOwner + "@",
	}; !slices.Equal(roles, want) {
		t.Errorf("alice has %v, want %v", roles, want)
	}
	if err := s.Accounts.RevokeRole(t.Context(), access.RepositoryOwner, repository, alice, team); err != nil {
		t.Errorf("RevokeRole: %v", err)
	}
	left, err := s.Accounts.AssignmentsOf(t.Context(), alice)
	if err != nil || len(left) != 2 || len(rolesOf(t, s, team)) != 0 {
		t.Fatalf("after RevokeRole: %v, %v", left, err)
	}
	if err := s.Accounts.DeleteAssignment(t.Context(), left[0].ID); err != nil {
		t.Error(err)
	}
	if err := s.Accounts.DeleteAssignment(t.Context(), left[0].ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("DeleteAssignment of a deleted one: %v", err)
	}
}

func TestGroups(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	alice, bob := user(t, s, "alice"), user(t, s, "bob")
	team, err := s.Accounts.CreateGroup(t.Context(), "team", alice.ID)
	if err != nil || team.ID == 0 || team.Name != "team" {
		t.Fatalf("CreateGroup = %+v, %v", team, err)
	}
	if roles := rolesOf(t, s, accounts.Assignee{Account: alice.ID}); !slices.Equal(
		roles,
		[]string{access.GroupOwner + "@group:" + strconv.FormatInt(team.ID, 10)},
	) {
		t.Errorf("the creator has %v", roles)
	}
	_, err = s.Accounts.CreateGroup(t.Context(), "team", 0)
	wantField(t, err, "name")
	other, err := s.Accounts.CreateGroup(t.Context(), "other", 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Accounts.RenameGroup(t.Context(), other.ID, "team")
	wantField(t, err, "name")
	if g, err := s.Accounts.RenameGroup(t.Context(), other.ID, "others"); err != nil || g.Name != "others" {
		t.Errorf("RenameGroup = %+v, %v", g, err)
	}
	if g, err := s.Accounts.GroupByName(t.Context(), "others"); err != nil || g.ID != other.ID {
		t.Errorf("GroupByName = %+v, %v", g, err)
	}
	for range 2 { // the second time has no effect
		if err := s.Accounts.AddMember(t.Context(), team.ID, bob.ID); err != nil {
			t.Errorf("AddMember: %v", err)
		}
	}
	for _, ids := range [][2]int64{{1 << 40, bob.ID}, {team.ID, 1 << 40}} {
		if err := s.Accounts.AddMember(t.Context(), ids[0], ids[1]); !fault.Is(err, fault.NotFound) {
			t.Errorf("AddMember(%v): %v", ids, err)
		}
	}
	set := func(groups ...string) bool {
		t.Helper()
		changed, err := sqldb.InTx(t.Context(), s.DB, func(x *sqldb.Tx) (bool, error) {
			return accounts.SetMemberships(x, bob.ID, "ldap", groups)
		})
		if err != nil {
			t.Fatal(err)
		}
		return changed
	}
	if !set("team", "others", "nowhere") || set("others", "team") || !set("team") || !set("team", "others") {
		t.Error("SetMemberships reports a wrong change")
	}
	if err := s.Accounts.RemoveMember(t.Context(), team.ID, bob.ID); !fault.Is(err, fault.Conflict) {
		t.Errorf("RemoveMember of a membership that LDAP has too: %v", err)
	}
	if !set() {
		t.Error("SetMemberships reports no change")
	}
	if err := s.Accounts.RemoveMember(t.Context(), team.ID, bob.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("RemoveMember of a member that was removed by hand and by LDAP: %v", err)
	}
	if err := s.Accounts.AddMember(t.Context(), team.ID, bob.ID); err != nil {
		t.Error(err)
	}
	if err := s.Accounts.RemoveMember(t.Context(), team.ID, bob.ID); err != nil {
		t.Errorf("RemoveMember: %v", err)
	}
	if err := s.Accounts.DeleteGroup(t.Context(), team.ID); err != nil {
		t.Error(err)
	}
	if roles := rolesOf(t, s, accounts.Assignee{Account: alice.ID}); len(roles) != 0 {
		t.Errorf("after the group was deleted its creator has %v", roles)
	}
	if err := s.Accounts.DeleteGroup(t.Context(), team.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("DeleteGroup of a deleted one: %v", err)
	}
	if _, err := s.Accounts.RenameGroup(t.Context(), team.ID, "x"); !fault.Is(err, fault.NotFound) {
		t.Errorf("RenameGroup of a deleted one: %v", err)
	}
}

// TestMutationsAreAnnounced counts the announcements of each kind of change.
func TestMutationsAreAnnounced(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	alice := user(t, s, "alice")
	calls := 0
	s.Accounts.OnChange(func() { calls++ })
	a := s.Accounts
	var u pulp.User
	var g pulp.Group
	var r pulp.Role
	who := accounts.Assignee{Account: alice.ID}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"CreateUser", func() (err error) { u, err = a.CreateUser(t.Context(), pulp.User{Username: "u"}); return err }},
		{"EditUser", func() error {
			_, err := a.EditUser(t.Context(), u.ID, func(*pulp.User) error { return nil })
			return err
		}},
		{"DeleteUser", func() error { return a.DeleteUser(t.Context(), u.ID, nil) }},
		{"CreateGroup", func() (err error) { g, err = a.CreateGroup(t.Context(), "g", 0); return err }},
		{"RenameGroup", func() error { _, err := a.RenameGroup(t.Context(), g.ID, "h"); return err }},
		{"AddMember", func() error { return a.AddMember(t.Context(), g.ID, alice.ID) }},
		{"RemoveMember", func() error { return a.RemoveMember(t.Context(), g.ID, alice.ID) }},
		{"CreateRole", func() (err error) { r, err = a.CreateRole(t.Context(), pulp.Role{Name: "r"}); return err }},
		{"EditRole", func() error { _, err := a.EditRole(t.Context(), r.ID, func(*pulp.Role) {}); return err }},
		{"AssignRole", func() error { _, err := a.AssignRole(t.Context(), "r", "", who); return err }},
		{"RevokeRole", func() error { return a.RevokeRole(t.Context(), "r", "", who) }},
		{"DeleteAssignment", func() error {
			ids, err := a.AssignRole(t.Context(), "r", "", who)
			calls--
			return errors.Join(err, a.DeleteAssignment(t.Context(), ids[0]))
		}},
		{"DeleteRole", func() error { return a.DeleteRole(t.Context(), r.ID) }},
		{"DeleteGroup", func() error { return a.DeleteGroup(t.Context(), g.ID) }},
	} {
		before := calls
		if err := step.do(); err != nil || calls != before+1 {
			t.Errorf("%s: %v, %d announcements, want 1", step.name, err, calls-before)
		}
	}
}
