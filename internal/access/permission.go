package access

import (
	"iter"
	"math/bits"
)

// Permission is the name of a permission, APP.CODE, as Pulp's API shows it.
type Permission string

// The permissions of the core.
const (
	ViewTask        Permission = "core.view_task"
	ChangeTask      Permission = "core.change_task"
	DeleteTask      Permission = "core.delete_task"
	ManageRolesTask Permission = "core.manage_roles_task"

	AddGroup         Permission = "core.add_group"
	ViewGroup        Permission = "core.view_group"
	ChangeGroup      Permission = "core.change_group"
	DeleteGroup      Permission = "core.delete_group"
	ManageRolesGroup Permission = "core.manage_roles_group"

	AddUser    Permission = "core.add_user"
	ViewUser   Permission = "core.view_user"
	ChangeUser Permission = "core.change_user"
	DeleteUser Permission = "core.delete_user"

	ViewService        Permission = "core.view_signingservice"
	UseService         Permission = "core.use_signingservice"
	ChangeService      Permission = "core.change_signingservice"
	ManageRolesService Permission = "core.manage_roles_signingservice"

	ManageContentLabels Permission = "core.manage_content_labels"
)

// The permissions on repositories. They count for push repositories too, which also have some of their own.
const (
	AddRepository         Permission = "container.add_containerrepository"
	ViewRepository        Permission = "container.view_containerrepository"
	ChangeRepository      Permission = "container.change_containerrepository"
	DeleteRepository      Permission = "container.delete_containerrepository"
	DeleteVersions        Permission = "container.delete_containerrepository_versions"
	SyncRepository        Permission = "container.sync_containerrepository"
	ModifyContent         Permission = "container.modify_content_containerrepository"
	BuildImage            Permission = "container.build_image_containerrepository"
	ManageRolesRepository Permission = "container.manage_roles_containerrepository"

	ViewPushRepository        Permission = "container.view_containerpushrepository"
	ChangePushRepository      Permission = "container.change_containerpushrepository"
	ModifyPushContent         Permission = "container.modify_content_containerpushrepository"
	ManageRolesPushRepository Permission = "container.manage_roles_containerpushrepository"
)

// The permissions on remotes, distributions and namespaces.
const (
	AddRemote         Permission = "container.add_containerremote"
	ViewRemote        Permission = "container.view_containerremote"
	ChangeRemote      Permission = "container.change_containerremote"
	DeleteRemote      Permission = "container.delete_containerremote"
	ManageRolesRemote Permission = "container.manage_roles_containerremote"

	AddDistribution         Permission = "container.add_containerdistribution"
	ViewDistribution        Permission = "container.view_containerdistribution"
	PullDistribution        Permission = "container.pull_containerdistribution"
	PushDistribution        Permission = "container.push_containerdistribution"
	ChangeDistribution      Permission = "container.change_containerdistribution"
	DeleteDistribution      Permission = "container.delete_containerdistribution"
	ManageRolesDistribution Permission = "container.manage_roles_containerdistribution"

	AddNamespace         Permission = "container.add_containernamespace"
	ViewNamespace        Permission = "container.view_containernamespace"
	ChangeNamespace      Permission = "container.change_containernamespace"
	DeleteNamespace      Permission = "container.delete_containernamespace"
	ManageRolesNamespace Permission = "container.manage_roles_containernamespace"
)

// The permissions on webhooks.
const (
	AddWebhook         Permission = "countersign.add_webhook"
	ViewWebhook        Permission = "countersign.view_webhook"
	ChangeWebhook      Permission = "countersign.change_webhook"
	DeleteWebhook      Permission = "countersign.delete_webhook"
	ManageRolesWebhook Permission = "countersign.manage_roles_webhook"
)

// The permissions on the objects of a namespace. They are given on the namespace, or for all namespaces.
const (
	InNamespaceAddDistribution    Permission = "container.namespace_add_containerdistribution"
	InNamespaceDeleteDistribution Permission = "container.namespace_delete_containerdistribution"
	InNamespaceViewDistribution   Permission = "container.namespace_view_containerdistribution"
	InNamespacePull               Permission = "container.namespace_pull_containerdistribution"
	InNamespacePush               Permission = "container.namespace_push_containerdistribution"
	InNamespaceChangeDistribution Permission = "container.namespace_change_containerdistribution"
	InNamespaceViewPush           Permission = "container.namespace_view_containerpushrepository"
	InNamespaceModifyPush         Permission = "container.namespace_modify_content_containerpushrepository"
	InNamespaceChangePush         Permission = "container.namespace_change_containerpushrepository"
	InNamespaceView               Permission = "container.namespace_view_containerrepository"
	InNamespaceModify             Permission = "container.namespace_modify_content_containerrepository"
	InNamespaceChange             Permission = "container.namespace_change_containerrepository"
)

// The permissions on pull-through caches.
const (
	AddPullThroughRemote         Permission = "container.add_containerpullthroughremote"
	ViewPullThroughRemote        Permission = "container.view_containerpullthroughremote"
	ChangePullThroughRemote      Permission = "container.change_containerpullthroughremote"
	DeletePullThroughRemote      Permission = "container.delete_containerpullthroughremote"
	ManageRolesPullThroughRemote Permission = "container.manage_roles_containerpullthroughremote"
	AddPullThrough               Permission = "container.add_containerpullthroughdistribution"
	ViewPullThrough              Permission = "container.view_containerpullthroughdistribution"
	ChangePullThrough            Permission = "container.change_containerpullthroughdistribution"
	DeletePullThrough            Permission = "container.delete_containerpullthroughdistribution"
	ManageRolesPullThrough       Permission = "container.manage_roles_containerpullthroughdistribution"
	PullNewDistribution          Permission = "container.pull_new_containerdistribution"
)

// Permissions are all permissions. A Set numbers them in this order.
var Permissions = []Permission{
	ViewTask, ChangeTask, DeleteTask, ManageRolesTask,
	AddGroup, ViewGroup, ChangeGroup, DeleteGroup, ManageRolesGroup,
	AddUser, ViewUser, ChangeUser, DeleteUser,
	ViewService, UseService, ChangeService, ManageRolesService,
	AddRepository, ViewRepository, ChangeRepository, DeleteRepository, DeleteVersions, SyncRepository, ModifyContent,
	BuildImage, ManageRolesRepository,
	ViewPushRepository, ChangePushRepository, ModifyPushContent, ManageRolesPushRepository,
	AddRemote, ViewRemote, ChangeRemote, DeleteRemote, ManageRolesRemote,
	AddDistribution, ViewDistribution, PullDistribution, PushDistribution, ChangeDistribution, DeleteDistribution,
	ManageRolesDistribution,
	AddNamespace, ViewNamespace, ChangeNamespace, DeleteNamespace, ManageRolesNamespace,
	InNamespaceAddDistribution, InNamespaceDeleteDistribution, InNamespaceViewDistribution, InNamespacePull,
	InNamespacePush, InNamespaceChangeDistribution, InNamespaceViewPush, InNamespaceModifyPush, InNamespaceChangePush,
	InNamespaceView, InNamespaceModify, InNamespaceChange,
	AddPullThroughRemote, ViewPullThroughRemote, ChangePullThroughRemote, DeletePullThroughRemote,
	ManageRolesPullThroughRemote, AddPullThrough, ViewPullThrough, ChangePullThrough, DeletePullThrough,
	ManageRolesPullThrough, PullNewDistribution,
	AddWebhook, ViewWebhook, ChangeWebhook, DeleteWebhook, ManageRolesWebhook,
	ManageContentLabels,
}

var numbers = func() map[Permission]int {
	m := make(map[Permission]int, len(Permissions))
	for i, p := range Permissions {
		m[p] = i
	}
	return m
}()

// Known reports whether a permission exists.
func Known(p Permission) bool {
	_, ok := numbers[p]
	return ok
}

// Set is a set of permissions.
type Set [2]uint64

// SetOf returns the set of permissions. It omits unknown ones, which a later version may have stored.
func SetOf(all ...Permission) Set {
	var s Set
	for _, p := range all {
		if i, ok := numbers[p]; ok {
			s[i/64] |= 1 << (i % 64)
		}
	}
	return s
}

// Or returns the union of two sets.
func (s Set) Or(t Set) Set { return Set{s[0] | t[0], s[1] | t[1]} }

// And returns the intersection of two sets.
func (s Set) And(t Set) Set { return Set{s[0] & t[0], s[1] & t[1]} }

// Without returns the permissions of the set that are not in another one.
func (s Set) Without(t Set) Set { return Set{s[0] &^ t[0], s[1] &^ t[1]} }

// HasAny reports whether the sets have a permission in common.
func (s Set) HasAny(t Set) bool { return s[0]&t[0] != 0 || s[1]&t[1] != 0 }

// Has reports whether the set contains a permission.
func (s Set) Has(p Permission) bool { return s.HasAny(SetOf(p)) }

// All returns the permissions of the set, in the order of Permissions.
func (s Set) All() iter.Seq[Permission] {
	return func(yield func(Permission) bool) {
		for word, rest := range s {
			for ; rest != 0; rest &= rest - 1 {
				if !yield(Permissions[word*64+bits.TrailingZeros64(rest)]) {
					return
				}
			}
		}
	}
}
