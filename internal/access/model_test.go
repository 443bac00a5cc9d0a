package access_test

import (
	"slices"
	"testing"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
)

// TestEachLockedRoleAppliesToItsType checks that the model in the name of a role is that of its permissions.
func TestEachLockedRoleAppliesToItsType(t *testing.T) {
	t.Parallel()
	for _, r := range access.LockedRoles {
		for _, p := range r.Permissions {
			model := p.Model()
			if len(r.Name) <= len(model) || r.Name[:len(model)+1] != model+"_" {
				if r.Name != "core.task_user_dispatcher" && r.Name != "core.content_labeler" {
					t.Errorf("the role %s has the permission %s of the model %s", r.Name, p, model)
				}
			}
		}
	}
}

func TestApplicable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		collection string
		with       []access.Permission
		without    []access.Permission
	}{
		{
			pulp.ContainerCollection, []access.Permission{access.ViewRepository, access.DeleteVersions, access.BuildImage},
			[]access.Permission{access.ViewPushRepository, access.InNamespaceView},
		},
		{
			pulp.PushCollection, []access.Permission{access.ViewRepository, access.ViewPushRepository},
			[]access.Permission{access.InNamespaceViewPush},
		},
		{
			pulp.DistributionCollection, []access.Permission{access.PullDistribution, access.AddDistribution},
			[]access.Permission{"container.pull_new_containerdistribution", access.InNamespacePull},
		},
		{
			pulp.NamespaceCollection, []access.Permission{access.InNamespacePull, access.DeleteNamespace},
			[]access.Permission{access.PullDistribution},
		},
		{
			pulp.RemoteCollection, []access.Permission{access.ViewRemote},
			[]access.Permission{"container.view_containerpullthroughremote"},
		},
		{
			pulp.TaskCollection, []access.Permission{access.ManageRolesTask},
			[]access.Permission{access.ViewGroup},
		},
		{
			pulp.GroupCollection, []access.Permission{access.ChangeGroup},
			[]access.Permission{access.ChangeUser},
		},
		{pulp.SigningServiceCollection, []access.Permission{access.UseService}, nil},
	} {
		kind, push, ok := access.KindOf(c.collection)
		if !ok {
			t.Errorf("no kind for %s", c.collection)
		}
		has := access.Applicable(kind, push)
		for _, p := range c.with {
			if !has.Has(p) {
				t.Errorf("%s does not apply to %s", p, c.collection)
			}
		}
		for _, p := range c.without {
			if has.Has(p) {
				t.Errorf("%s applies to %s", p, c.collection)
			}
		}
	}
	if _, _, ok := access.KindOf(pulp.UserCollection); ok ||
		access.Applicable(access.Accounts, false) != (access.Set{}) {
		t.Error("roles can be assigned on users")
	}
}

func TestHeld(t *testing.T) {
	t.Parallel()
	acme := caller("acme", pulp.LocalUser)
	admin := caller("admin", pulp.LocalUser)
	admin.Account.Staff = true
	disabled := *admin
	disabled.Account.Active = false
	limited := *acme
	limited.Token = &access.Token{Actions: []access.Use{access.UsePull}}
	distribution := access.Object{Kind: access.Distribution, Name: "acme/app", Exists: true, NamespaceExists: true}
	with := func(on access.Object, g access.Granted) access.Object { on.Granted = g; return on }
	absent := distribution
	absent.NamespaceExists = false
	all := access.Granted{
		Everywhere: access.SetOf(
			access.AddDistribution,
			access.ViewRemote,
		), Object: access.SetOf(access.PushDistribution, access.InNamespacePull),
		Namespace: access.SetOf(access.InNamespaceView, access.InNamespacePush, access.ViewNamespace),
	}
	for name, c := range map[string]struct {
		c    *access.Caller
		on   access.Object
		want []access.Permission
	}{
		"anonymous":      {nil, with(distribution, all), nil},
		"a disabled one": {&disabled, distribution, nil},
		"without roles":  {acme, distribution, nil},
		"an administrator": {
			admin, access.Object{Kind: access.Group},
			[]access.Permission{access.AddGroup, access.ChangeGroup, access.DeleteGroup, access.ManageRolesGroup, access.ViewGroup},
		},
		"roles": {
			acme, with(distribution, all),
			[]access.Permission{access.AddDistribution, access.InNamespacePush, access.PushDistribution},
		},
		"on the namespace": {
			acme, with(access.Object{Kind: access.Namespace, NamespaceExists: true}, all),
			[]access.Permission{access.InNamespacePull, access.InNamespacePush, access.InNamespaceView, access.ViewNamespace},
		},
		"a limited token": {
			&limited, with(distribution, access.Granted{Object: access.SetOf(access.PullDistribution, access.PushDistribution)}),
			[]access.Permission{access.PullDistribution},
		},
		"the task's author": {
			acme, access.Object{Kind: access.Task, Creator: 7},
			[]access.Permission{access.ChangeTask, access.DeleteTask, access.ManageRolesTask, access.ViewTask},
		},
		"another's task": {acme, access.Object{Kind: access.Task, Creator: 8}, nil},
	} {
		if got := access.Held(c.c, c.on); !slices.Equal(got, c.want) || got == nil {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if got := access.Held(acme, absent); !slices.Contains(got, access.InNamespacePush) ||
		slices.Contains(got, access.ViewNamespace) {
		t.Errorf("in the absent namespace of the own name: %v", got)
	}
	for p := range access.SetOf(access.InNamespacePull, access.PullDistribution).All() {
		if !slices.Contains(access.Held(admin, distribution), p) {
			t.Errorf("an administrator lacks %s", p)
		}
	}
}
