package access_test

import (
	"context"
	"slices"
	"testing"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/pulp"
)

func caller(name string, kind pulp.AccountKind) *access.Caller {
	return &access.Caller{Account: pulp.User{ID: 7, Username: name, Kind: kind, Active: true}}
}

// TestAllow covers the rules that permissions alone do not decide.
func TestAllow(t *testing.T) {
	t.Parallel()
	admin := caller("admin", pulp.LocalUser)
	admin.Account.Staff = true
	disabled := caller("gone", pulp.LocalUser)
	disabled.Account.Active, disabled.Account.Staff = false, true
	limited := func(patterns []string, actions ...access.Use) *access.Caller {
		c := *admin
		c.Token = &access.Token{ID: "t", Patterns: patterns}
		if len(actions) > 0 {
			c.Token.Actions = actions
		}
		return &c
	}
	acme, robot := caller("acme", pulp.LocalUser), caller("acme", pulp.Robot)
	public := access.Object{Kind: access.Distribution, Name: "acme/app", Exists: true, NamespaceExists: true}
	private, absent, anonymous := public, access.Object{Kind: access.Distribution, Name: "acme/app"}, public
	private.Private, anonymous.AnonymousPull = true, true
	with := func(on access.Object, g access.Granted) access.Object { on.Granted = g; return on }
	repo := access.Object{Kind: access.Repository, Name: "acme/app", NamespaceExists: true}
	push, unspaced := repo, repo
	push.Push, unspaced.NamespaceExists = true, false
	set := access.SetOf
	tests := map[string]struct {
		c      *access.Caller
		action access.Action
		on     access.Object
		want   bool
	}{
		"anonymous pull":                                 {action: access.Pull, on: anonymous, want: true},
		"anonymous pull while it is off":                 {action: access.Pull, on: public},
		"anonymous pull from private":                    {action: access.Pull, on: with(private, access.Granted{})},
		"anonymous push":                                 {action: access.Push, on: anonymous},
		"an account pulls from public":                   {c: robot, action: access.Pull, on: public, want: true},
		"an account pulls from private":                  {c: acme, action: access.Pull, on: private},
		"an account views public by href":                {c: acme, action: access.View, on: public},
		"a disabled administrator":                       {c: disabled, action: access.Pull, on: private},
		"an administrator":                               {c: admin, action: access.Administer, on: access.Object{Kind: access.Server}, want: true},
		"a user in the absent namespace of the own name": {c: acme, action: access.Push, on: absent, want: true},
		"a robot in the absent namespace of its name":    {c: robot, action: access.Push, on: absent},
		"an external user in the absent namespace":       {c: caller("acme", pulp.ExternalUser), action: access.Push, on: absent},
		"a user creates a repository there":              {c: acme, action: access.Create, on: unspaced, want: true},
		"a user changes a repository there":              {c: acme, action: access.Change, on: unspaced},
		"a user views a repository there":                {c: acme, action: access.View, on: unspaced},
		"a user in the namespace of the own name":        {c: acme, action: access.Push, on: private},
		"a user whose name is a prefix":                  {c: caller("acm", pulp.LocalUser), action: access.Push, on: absent},
		"pull by an object's role": {
			c: robot, action: access.Pull, want: true, on: with(private, access.Granted{Object: set(access.PullDistribution)}),
		},
		"push by a role for pulling": {
			c: robot, action: access.Push, on: with(private, access.Granted{Object: set(access.PullDistribution)}),
		},
		"an object's permission on the namespace": {
			c: robot, action: access.Pull, on: with(private, access.Granted{Namespace: set(access.PullDistribution)}),
		},
		"a namespace's permission on the object": {
			c: robot, action: access.Pull, on: with(private, access.Granted{Object: set(access.InNamespacePull)}),
		},
		"push by a role on all namespaces": {
			c: robot, action: access.Push, want: true, on: with(private, access.Granted{Everywhere: set(access.InNamespacePush)}),
		},
		"a role on repositories modifies push repositories": {
			c: robot, action: access.Modify, want: true, on: with(push, access.Granted{Object: set(access.ModifyContent)}),
		},
		"a role on push repositories does not modify others": {
			c: robot, action: access.Modify, on: with(repo, access.Granted{Object: set(access.ModifyPushContent)}),
		},
		"a collaborator of the distribution modifies its push repository": {
			c: robot, action: access.Modify, want: true, on: with(push, access.Granted{Serving: set(access.PushDistribution)}),
		},
		"a collaborator of the distribution modifies another repository": {
			c: robot, action: access.Modify, on: with(repo, access.Granted{Serving: set(access.PushDistribution)}),
		},
		"a task of the caller":          {c: acme, action: access.Change, on: access.Object{Kind: access.Task, Creator: 7}, want: true},
		"a task of another":             {c: acme, action: access.Change, on: access.Object{Kind: access.Task, Creator: 8}},
		"a task without a creator":      {c: &access.Caller{Account: pulp.User{Active: true}}, action: access.View, on: access.Object{Kind: access.Task}},
		"an unknown action":             {c: acme, action: "fly", on: private},
		"a pull token pulls":            {c: limited(nil, access.UsePull), action: access.Pull, on: private, want: true},
		"a pull token pushes":           {c: limited(nil, access.UsePull), action: access.Push, on: private},
		"a token without actions":       {c: limited([]string{"*"}, []access.Use{}...), action: access.Pull, on: private, want: true},
		"a token for another name":      {c: limited([]string{"acme/other*"}), action: access.Pull, on: private},
		"a token for another, public":   {c: limited([]string{"acme/other*"}), action: access.Pull, on: public, want: true},
		"a token for the name":          {c: limited([]string{"acme/*"}), action: access.Push, on: private, want: true},
		"a limited token administers":   {c: limited([]string{"*"}), action: access.Administer, on: access.Object{Kind: access.Server}},
		"a limited token manages users": {c: limited(nil, access.UseManage), action: access.Create, on: access.Object{Kind: access.Accounts}},
	}
	for name, tt := range tests {
		if got := access.Allow(tt.c, tt.action, tt.on); got != tt.want {
			t.Errorf("%s: %t, want %t", name, got, tt.want)
		}
	}
}

func TestSet(t *testing.T) {
	t.Parallel()
	all := access.SetOf(access.Permissions...)
	if got := slices.Collect(all.All()); !slices.Equal(got, access.Permissions) {
		t.Errorf("All = %v", got)
	}
	for _, p := range access.Permissions {
		if one := access.SetOf(p); !one.Has(p) || !all.Has(p) || len(slices.Collect(one.All())) != 1 {
			t.Errorf("the set of %s is %v", p, slices.Collect(one.All()))
		}
	}
	if s := access.SetOf("container.fly"); s != (access.Set{}) || access.Known("container.fly") || s.Has("container.fly") {
		t.Error("an unknown permission is in a set")
	}
}

// grants answers with the same permissions until they are changed.
type grants struct {
	g     access.Granted
	reads int
}

func (g *grants) Granted(context.Context, int64, access.Keys) (access.Granted, bool, error) {
	g.reads++
	return g.g, true, nil
}

// TestAllowPathCachesPermissionsOnly checks that a permission is cached until Purge, and that a denial is read again.
func TestAllowPathCachesPermissionsOnly(t *testing.T) {
	t.Parallel()
	g := &grants{}
	d := access.NewDecider(g, nil)
	c := caller("ci", pulp.Robot)
	check := func(action access.Action, want bool, reads int) {
		t.Helper()
		got, err := d.AllowPath(t.Context(), c, action, access.Object{Name: "acme/app"})
		if err != nil || got != want || g.reads != reads {
			t.Errorf("%s: %t, %v with %d reads, want %t with %d", action, got, err, g.reads, want, reads)
		}
	}
	check(access.Push, false, 1)
	check(access.Push, false, 2)
	g.g.Object = access.SetOf(access.PushDistribution)
	check(access.Push, true, 3)
	g.g = access.Granted{}
	check(access.Push, true, 3)
	d.Purge()
	check(access.Push, false, 4)
}

// TestMayCreatePath checks the permissions to create a path over REST (MayCreatePath) and by a push (MayPushNew).
func TestMayCreatePath(t *testing.T) {
	t.Parallel()
	in := func(name string, exists bool, g access.Granted) access.Object {
		return access.Object{Kind: access.Distribution, Name: name, NamespaceExists: exists, Granted: g}
	}
	acme := caller("acme", pulp.LocalUser)
	robot := caller("acme", pulp.Robot)
	limited := func(actions ...access.Use) *access.Caller {
		c := *acme
		c.Token = &access.Token{ID: "t", Patterns: []string{"acme/*"}, Actions: actions}
		return &c
	}
	admin := caller("root", pulp.LocalUser)
	admin.Account.Staff = true
	everywhere := func(p ...access.Permission) access.Granted { return access.Granted{Everywhere: access.SetOf(p...)} }
	collaborator := access.Granted{Namespace: access.SetOf(access.InNamespaceAddDistribution)}
	tests := map[string]struct {
		c                    *access.Caller
		on                   access.Object
		wantCreate, wantPush bool
	}{
		"anonymous":                                 {on: in("acme/app", false, access.Granted{})},
		"an administrator":                          {c: admin, on: in("new/app", false, access.Granted{}), wantCreate: true, wantPush: true},
		"the absent namespace of the own name":      {c: acme, on: in("acme/app", false, access.Granted{}), wantCreate: true, wantPush: true},
		"the namespace of the own name":             {c: acme, on: in("acme/app", true, access.Granted{})},
		"the absent namespace of a robot's name":    {c: robot, on: in("acme/app", false, access.Granted{})},
		"an absent namespace":                       {c: acme, on: in("new/app", false, access.Granted{})},
		"an absent namespace, creator":              {c: acme, on: in("new/app", false, everywhere(access.AddNamespace)), wantCreate: true, wantPush: true},
		"an absent namespace, distribution creator": {c: acme, on: in("new/app", false, everywhere(access.AddDistribution))},
		"a namespace, creator of namespaces":        {c: acme, on: in("new/app", true, everywhere(access.AddNamespace))},
		"a namespace, distribution creator":         {c: acme, on: in("new/app", true, everywhere(access.AddDistribution)), wantCreate: true, wantPush: true},
		"a namespace, collaborator":                 {c: robot, on: in("new/app", true, collaborator), wantCreate: true, wantPush: true},
		"a token to push":                           {c: limited(access.UsePush), on: in("acme/app", false, access.Granted{}), wantPush: true},
		"a token to push, another name":             {c: limited(access.UsePush), on: in("acme2/app", true, collaborator)},
		"a token to pull":                           {c: limited(access.UsePull), on: in("acme/app", false, access.Granted{})},
		"a token to manage":                         {c: limited(access.UseManage), on: in("acme/app", true, collaborator), wantCreate: true},
	}
	for name, tt := range tests {
		if got := access.MayCreatePath(tt.c, tt.on); got != tt.wantCreate {
			t.Errorf("%s: MayCreatePath = %t", name, got)
		}
		if got := access.MayPushNew(tt.c, tt.on); got != tt.wantPush {
			t.Errorf("%s: MayPushNew = %t", name, got)
		}
	}
}
