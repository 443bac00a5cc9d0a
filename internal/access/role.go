package access

import "slices"

// Role is a named set of permissions.
type Role struct {
	Name        string
	Permissions []Permission
}

// NamespaceOwner is the role of the creator of a namespace. A local user has its permissions in the absent namespace of
// the user's own name.
const NamespaceOwner = "container.containernamespace_owner"

// The roles that creators get on their objects.
const (
	RepositoryOwner   = "container.containerrepository_owner"
	RemoteOwner       = "container.containerremote_owner"
	DistributionOwner = "container.containerdistribution_owner"
	GroupOwner        = "core.group_owner"
	TaskOwner         = "core.task_owner"
	WebhookOwner      = "countersign.webhook_owner"

	PullThroughRemoteOwner = "container.containerpullthroughremote_owner"
	PullThroughOwner       = "container.containerpullthroughdistribution_owner"
)

// collaborates are the permissions that owners and collaborators of a namespace have.
var collaborates = []Permission{
	ViewNamespace,
	InNamespaceAddDistribution, InNamespaceDeleteDistribution, InNamespaceViewDistribution, InNamespacePull, InNamespacePush,
	InNamespaceChangeDistribution, InNamespaceViewPush, InNamespaceModifyPush, InNamespaceChangePush,
	InNamespaceView, InNamespaceModify, InNamespaceChange,
}

// LockedRoles are the roles that the program defines (compatibility.md#locked-roles). A migration stores them; a change
// here needs another one.
var LockedRoles = []Role{
	{"container.containerrepository_creator", []Permission{AddRepository}},
	{RepositoryOwner, []Permission{
		ViewRepository, ChangeRepository, DeleteRepository, DeleteVersions, SyncRepository, ModifyContent, BuildImage,
		ManageRolesRepository,
	}},
	{"container.containerrepository_content_manager", []Permission{
		ViewRepository, DeleteVersions, SyncRepository, ModifyContent, BuildImage,
	}},
	{"container.containerrepository_viewer", []Permission{ViewRepository}},
	{"container.containerremote_creator", []Permission{AddRemote}},
	{RemoteOwner, []Permission{ViewRemote, ChangeRemote, DeleteRemote, ManageRolesRemote}},
	{"container.containerremote_viewer", []Permission{ViewRemote}},
	{"container.containerpullthroughremote_creator", []Permission{AddPullThroughRemote}},
	{PullThroughRemoteOwner, []Permission{
		ViewPullThroughRemote, ChangePullThroughRemote, DeletePullThroughRemote, ManageRolesPullThroughRemote,
	}},
	{"container.containerpullthroughremote_viewer", []Permission{ViewPullThroughRemote}},
	{"container.containerdistribution_creator", []Permission{AddDistribution}},
	{DistributionOwner, []Permission{
		ViewDistribution, PullDistribution, PushDistribution, DeleteDistribution, ChangeDistribution,
		ManageRolesDistribution,
	}},
	{"container.containerdistribution_collaborator", []Permission{ViewDistribution, PullDistribution, PushDistribution}},
	{"container.containerdistribution_consumer", []Permission{ViewDistribution, PullDistribution}},
	{"container.containerpullthroughdistribution_creator", []Permission{AddPullThrough}},
	{PullThroughOwner, []Permission{
		ViewPullThrough, DeletePullThrough, ChangePullThrough, ManageRolesPullThrough, PullNewDistribution,
	}},
	{"container.containerpullthroughdistribution_collaborator", []Permission{ViewPullThrough, PullNewDistribution}},
	{"container.containerpullthroughdistribution_consumer", []Permission{ViewPullThrough, PullNewDistribution}},
	{"container.containernamespace_creator", []Permission{AddNamespace}},
	{NamespaceOwner, append(slices.Clone(collaborates), DeleteNamespace, ManageRolesNamespace)},
	{"container.containernamespace_collaborator", collaborates},
	{"container.containernamespace_consumer", []Permission{
		ViewNamespace, InNamespaceViewDistribution, InNamespacePull, InNamespaceViewPush, InNamespaceView,
	}},
	{TaskOwner, []Permission{ViewTask, ChangeTask, DeleteTask, ManageRolesTask}},
	{"core.task_viewer", []Permission{ViewTask}},
	{"core.task_user_dispatcher", []Permission{ViewTask}},
	{"core.group_creator", []Permission{AddGroup}},
	{GroupOwner, []Permission{ViewGroup, ChangeGroup, DeleteGroup, ManageRolesGroup}},
	{"core.group_viewer", []Permission{ViewGroup}},
	{"core.user_creator", []Permission{AddUser}},
	{"core.user_owner", []Permission{ViewUser, ChangeUser, DeleteUser}},
	{"core.user_viewer", []Permission{ViewUser}},
	{"core.signingservice_user", []Permission{ViewService, UseService}},
	{"core.signingservice_owner", []Permission{ViewService, UseService, ChangeService, ManageRolesService}},
	{"countersign.webhook_creator", []Permission{AddWebhook}},
	{WebhookOwner, []Permission{ViewWebhook, ChangeWebhook, DeleteWebhook, ManageRolesWebhook}},
	{"countersign.webhook_viewer", []Permission{ViewWebhook}},
	{"core.content_labeler", []Permission{ManageContentLabels}},
}

// Locked returns the permissions of a locked role; empty if there is none of this name.
func Locked(name string) Set {
	for _, r := range LockedRoles {
		if r.Name == name {
			return SetOf(r.Permissions...)
		}
	}
	return Set{}
}

var ownNamespace = Locked(NamespaceOwner)
