package access

import "github.com/countersign/countersign/internal/pulp"

// Action is an action that needs permission.
type Action string

// The actions.
const (
	View           Action = "view"            // read an object through the REST API
	Create         Action = "create"          // create an object with the name of Object
	Change         Action = "change"          // change settings and labels
	Delete         Action = "delete"          // delete an object
	ManageRoles    Action = "manage-roles"    // list and change the assignments of roles
	Pull           Action = "pull"            // read content through the registry API
	PullNew        Action = "pull-new"        // make a pull-through cache fetch content that it does not have
	Push           Action = "push"            // add content through the registry API
	Remove         Action = "remove"          // delete content through the registry API
	Modify         Action = "modify"          // add and remove content through the REST API
	Sign           Action = "sign"            // sign content, with a signing service that the caller may use
	Sync           Action = "sync"            // sync a repository from a remote
	RemoveVersions Action = "remove-versions" // delete versions of a repository
	UseKey         Action = "use-key"         // sign with a signing service
	AssignKey      Action = "assign-key"      // make a signing service that of a repository
	Administer     Action = "administer"      // everything that only administrators may do
)

// uses has the class of each action.
var uses = map[Action]Use{
	View: UsePull, Pull: UsePull, PullNew: UsePull,
	Push: UsePush, Modify: UsePush, Sync: UsePush,
	Sign: UseSign, UseKey: UseSign,
	Delete: UseDelete, Remove: UseDelete, RemoveVersions: UseDelete,
	Create: UseManage, Change: UseManage, ManageRoles: UseManage, AssignKey: UseManage, Administer: UseManage,
}

// Kind is a kind of objects.
type Kind string

// The kinds of objects. The text of those that roles can be assigned on is stored in the database.
const (
	Repository   Kind = "repository"
	Distribution Kind = "distribution"
	Remote       Kind = "remote"

	PullThrough       Kind = "pull_through_distribution"
	PullThroughRemote Kind = "pull_through_remote"

	Namespace      Kind = "namespace"
	Task           Kind = "task"
	Group          Kind = "group"
	SigningService Kind = "signing_service"
	Webhook        Kind = "webhook"
	Accounts       Kind = "accounts" // users, groups, roles and API tokens as a whole
	Content        Kind = "content"  // content units of every kind; all repositories that hold a unit share its labels
	Server         Kind = "server"
)

// Object is the target of an action.
type Object struct {
	Kind Kind
	// Name is the name of a repository, remote, namespace or signing service, and the base path of a distribution.
	// Its first path element names the object's namespace.
	Name string
	// Push marks a repository of the type container-push.
	Push bool
	// Exists and Private are those of a distribution. Existing ones that are not private are public.
	Exists, Private bool
	// AnonymousPull reports whether callers without an account may read public repositories.
	AnonymousPull bool
	// NamespaceExists reports whether the object's namespace exists.
	NamespaceExists bool
	// Creator is the id of the account that started a task; 0 for none.
	Creator int64
	Granted Granted
}

// Granted are the permissions that roles give a caller.
type Granted struct {
	Everywhere Set // on all objects
	Namespace  Set // on the object's namespace
	Object     Set // on the object
	Serving    Set // on the distributions that serve a repository
	Cache      Set // on the pull-through distribution that created a distribution, or the distribution of a repository
}

// Or returns the union of two grants.
func (g Granted) Or(h Granted) Granted {
	return Granted{
		g.Everywhere.Or(h.Everywhere), g.Namespace.Or(h.Namespace), g.Object.Or(h.Object), g.Serving.Or(h.Serving),
		g.Cache.Or(h.Cache),
	}
}

// Rule lists the permissions each of which suffices for an action on a kind of objects.
type Rule struct {
	Kind   Kind
	Action Action
	// Object are permissions on the object, or on all objects. PushObject are further ones for push repositories.
	Object, PushObject []Permission
	// Namespace are permissions on the object's namespace, or on all namespaces. A repository of the type
	// container-push has those in PushNamespace instead.
	Namespace, PushNamespace []Permission
	// Serving are permissions on a distribution that serves a push repository.
	Serving []Permission
	// Cache are permissions on the pull-through distribution whose pull created the object.
	Cache []Permission
	// Everywhere are permissions that count only when they are given on all objects.
	Everywhere []Permission
	// Public permits the action on public objects to every account, and to anonymous callers if AnonymousPull does.
	Public bool
}

// Rules are the rules in force, beside those of administrators and of the absent namespace of a user's own name. See
// compatibility.md#permissions.
var Rules = []Rule{
	{
		Kind: Distribution, Action: Pull,
		Object: []Permission{PullDistribution}, Namespace: []Permission{InNamespacePull}, Public: true,
		Cache: []Permission{PullNewDistribution},
	},
	{Kind: Distribution, Action: Push, Object: []Permission{PushDistribution}, Namespace: []Permission{InNamespacePush}},
	{Kind: Distribution, Action: Remove, Object: []Permission{PushDistribution}, Namespace: []Permission{InNamespacePush}},
	{
		Kind: Distribution, Action: Sign,
		Object: []Permission{PushDistribution}, Namespace: []Permission{InNamespacePush},
		Cache: []Permission{ChangePullThrough},
	},
	{
		Kind: Distribution, Action: View,
		Object: []Permission{ViewDistribution}, Namespace: []Permission{InNamespaceViewDistribution},
		Cache: []Permission{ViewPullThrough},
	},
	{
		Kind: Distribution, Action: Create,
		Namespace: []Permission{InNamespaceAddDistribution}, Everywhere: []Permission{AddDistribution},
	},
	{
		Kind: Distribution, Action: Change,
		Object: []Permission{ChangeDistribution}, Namespace: []Permission{InNamespaceChangeDistribution},
		Cache: []Permission{ChangePullThrough},
	},
	{
		Kind: Distribution, Action: Delete,
		Object: []Permission{DeleteDistribution}, Namespace: []Permission{InNamespaceDeleteDistribution},
		Cache: []Permission{DeletePullThrough},
	},
	{
		Kind: Distribution, Action: ManageRoles,
		Object: []Permission{ManageRolesDistribution}, Namespace: []Permission{ManageRolesNamespace},
		Cache: []Permission{ManageRolesPullThrough},
	},

	{
		Kind: Repository, Action: View,
		Object: []Permission{ViewRepository}, PushObject: []Permission{ViewPushRepository},
		Namespace: []Permission{InNamespaceView}, PushNamespace: []Permission{InNamespaceViewPush},
		Serving: []Permission{PushDistribution},
		Cache:   []Permission{ViewPullThrough},
	},
	{
		Kind: Repository, Action: Create,
		Namespace: []Permission{InNamespaceAddDistribution}, PushNamespace: []Permission{InNamespaceAddDistribution},
		Everywhere: []Permission{AddRepository},
	},
	{
		Kind: Repository, Action: Change,
		Object: []Permission{ChangeRepository}, PushObject: []Permission{ChangePushRepository},
		Namespace: []Permission{InNamespaceChange}, PushNamespace: []Permission{InNamespaceChangePush},
		Cache: []Permission{ChangePullThrough},
	},
	{
		Kind: Repository, Action: Delete,
		Object:    []Permission{DeleteRepository},
		Namespace: []Permission{InNamespaceChange}, PushNamespace: []Permission{InNamespaceChangePush},
		Cache: []Permission{DeletePullThrough},
	},
	{
		Kind: Repository, Action: RemoveVersions,
		Object:    []Permission{DeleteVersions},
		Namespace: []Permission{InNamespaceModify}, PushNamespace: []Permission{InNamespaceModifyPush},
		Cache: []Permission{ChangePullThrough},
	},
	{
		Kind: Repository, Action: Modify,
		Object: []Permission{ModifyContent}, PushObject: []Permission{ModifyPushContent},
		Namespace: []Permission{InNamespaceModify}, PushNamespace: []Permission{InNamespaceModifyPush},
		Serving: []Permission{PushDistribution},
		Cache:   []Permission{ChangePullThrough},
	},
	{
		Kind: Repository, Action: Sign,
		Object: []Permission{ModifyContent}, PushObject: []Permission{ModifyPushContent},
		Namespace: []Permission{InNamespaceModify}, PushNamespace: []Permission{InNamespaceModifyPush},
		Serving: []Permission{PushDistribution},
		Cache:   []Permission{ChangePullThrough},
	},
	{
		Kind: Repository, Action: Sync,
		Object:    []Permission{SyncRepository},
		Namespace: []Permission{InNamespaceModify}, PushNamespace: []Permission{InNamespaceModifyPush},
		Cache: []Permission{ChangePullThrough},
	},
	{
		Kind: Repository, Action: ManageRoles,
		Object: []Permission{ManageRolesRepository}, PushObject: []Permission{ManageRolesPushRepository},
		Namespace: []Permission{ManageRolesNamespace}, PushNamespace: []Permission{ManageRolesNamespace},
		Cache: []Permission{ManageRolesPullThrough},
	},

	{Kind: Remote, Action: View, Object: []Permission{ViewRemote}, Namespace: []Permission{InNamespaceChange}},
	{Kind: Remote, Action: Create, Everywhere: []Permission{AddRemote}, Namespace: []Permission{InNamespaceChange}},
	{Kind: Remote, Action: Change, Object: []Permission{ChangeRemote}, Namespace: []Permission{InNamespaceChange}},
	{Kind: Remote, Action: Delete, Object: []Permission{DeleteRemote}, Namespace: []Permission{InNamespaceChange}},
	{
		Kind: Remote, Action: ManageRoles,
		Object: []Permission{ManageRolesRemote}, Namespace: []Permission{ManageRolesNamespace},
	},

	{Kind: PullThroughRemote, Action: View, Object: []Permission{ViewPullThroughRemote}},
	{Kind: PullThroughRemote, Action: Create, Everywhere: []Permission{AddPullThroughRemote}},
	{Kind: PullThroughRemote, Action: Change, Object: []Permission{ChangePullThroughRemote}},
	{Kind: PullThroughRemote, Action: Delete, Object: []Permission{DeletePullThroughRemote}},
	{Kind: PullThroughRemote, Action: ManageRoles, Object: []Permission{ManageRolesPullThroughRemote}},

	{
		Kind: PullThrough, Action: PullNew,
		Object: []Permission{PullNewDistribution}, Namespace: []Permission{InNamespaceAddDistribution}, Public: true,
	},
	{
		Kind: PullThrough, Action: View,
		Object: []Permission{ViewPullThrough}, Namespace: []Permission{InNamespaceViewDistribution},
	},
	{
		Kind: PullThrough, Action: Create,
		Namespace: []Permission{InNamespaceAddDistribution}, Everywhere: []Permission{AddPullThrough},
	},
	{
		Kind: PullThrough, Action: Change,
		Object: []Permission{ChangePullThrough}, Namespace: []Permission{InNamespaceChangeDistribution},
	},
	{
		Kind: PullThrough, Action: Delete,
		Object: []Permission{DeletePullThrough}, Namespace: []Permission{InNamespaceDeleteDistribution},
	},
	{
		Kind: PullThrough, Action: ManageRoles,
		Object: []Permission{ManageRolesPullThrough}, Namespace: []Permission{ManageRolesNamespace},
	},

	{Kind: Namespace, Action: View, Namespace: []Permission{ViewNamespace}, Public: true},
	{Kind: Namespace, Action: Create, Everywhere: []Permission{AddNamespace}},
	{Kind: Namespace, Action: Change, Namespace: []Permission{ChangeNamespace, ManageRolesNamespace}},
	{Kind: Namespace, Action: Delete, Namespace: []Permission{DeleteNamespace}},
	{Kind: Namespace, Action: ManageRoles, Namespace: []Permission{ManageRolesNamespace}},

	{Kind: Task, Action: View, Object: []Permission{ViewTask}},
	{Kind: Task, Action: Change, Object: []Permission{ChangeTask}},
	{Kind: Task, Action: Delete, Object: []Permission{DeleteTask}},
	{Kind: Task, Action: ManageRoles, Object: []Permission{ManageRolesTask}},

	{Kind: Group, Action: View, Object: []Permission{ViewGroup}},
	{Kind: Group, Action: Create, Everywhere: []Permission{AddGroup}},
	{Kind: Group, Action: Change, Object: []Permission{ChangeGroup}},
	{Kind: Group, Action: Delete, Object: []Permission{DeleteGroup}},
	{Kind: Group, Action: ManageRoles, Object: []Permission{ManageRolesGroup}},

	{Kind: Webhook, Action: View, Object: []Permission{ViewWebhook}},
	{Kind: Webhook, Action: Create, Everywhere: []Permission{AddWebhook}},
	{Kind: Webhook, Action: Change, Object: []Permission{ChangeWebhook}},
	{Kind: Webhook, Action: Delete, Object: []Permission{DeleteWebhook}},
	{Kind: Webhook, Action: ManageRoles, Object: []Permission{ManageRolesWebhook}},

	{Kind: Accounts, Action: View, Everywhere: []Permission{ViewUser}},
	{Kind: Accounts, Action: Create, Everywhere: []Permission{AddUser}},
	{Kind: Accounts, Action: Change, Everywhere: []Permission{ChangeUser}},
	{Kind: Accounts, Action: Delete, Everywhere: []Permission{DeleteUser}},

	{Kind: SigningService, Action: View, Object: []Permission{ViewService, UseService}},
	{Kind: SigningService, Action: UseKey, Object: []Permission{UseService}},
	{Kind: SigningService, Action: AssignKey, Object: []Permission{ChangeService}},
	{Kind: SigningService, Action: ManageRoles, Object: []Permission{ManageRolesService}},

	{Kind: Content, Action: Change, Everywhere: []Permission{ManageContentLabels}},
}

// compiled is a Rule as sets.
type compiled struct {
	object, pushObject, namespace, pushNamespace, serving, cache, everywhere Set
	public                                                                   bool
}

type ruleKey struct {
	kind   Kind
	action Action
}

var rules = func() map[ruleKey]compiled {
	m := make(map[ruleKey]compiled, len(Rules))
	for _, r := range Rules {
		m[ruleKey{r.Kind, r.Action}] = compiled{
			object: SetOf(r.Object...), pushObject: SetOf(r.PushObject...),
			namespace: SetOf(r.Namespace...), pushNamespace: SetOf(r.PushNamespace...),
			serving: SetOf(r.Serving...), cache: SetOf(r.Cache...), everywhere: SetOf(r.Everywhere...), public: r.Public,
		}
	}
	return m
}()

// Allow reports whether a caller may perform an action on an object. It is the only function that decides about
// permissions. Administrators may perform every action. See compatibility.md#permissions.
func Allow(c *Caller, action Action, on Object) bool {
	rule, ok := rules[ruleKey{on.Kind, action}]
	public := ok && rule.public && on.Exists && !on.Private
	switch {
	case public && on.AnonymousPull:
		return true
	case c == nil || !c.Account.Active:
		return false
	case public:
		return true
	case !c.Token.permits(action, on):
		return false
	case c.Account.Staff:
		return true
	case !ok:
		return false
	case on.Kind == Task && on.Creator != 0 && on.Creator == c.Account.ID:
		return true
	}
	return rule.granted(on, on.Granted.Or(c.own(action, on)), c)
}

func (r compiled) granted(on Object, g Granted, c *Caller) bool {
	object, namespace := r.object, r.namespace
	if on.Push {
		object, namespace = object.Or(r.pushObject), r.pushNamespace
	}
	switch {
	case g.Everywhere.HasAny(object.Or(namespace).Or(r.everywhere)),
		g.Object.HasAny(object),
		g.Namespace.HasAny(namespace),
		on.Push && g.Serving.HasAny(r.serving),
		g.Cache.HasAny(r.cache):
		return true
	}
	// The namespace of a user's own name is created with the first object in it.
	return on.Kind == Namespace && r.everywhere.Has(AddNamespace) && c.ownsAbsent(on)
}

// ownsAbsent reports whether the object is in the absent namespace of the caller's own name. Only local users own it:
// names of robots and of external identities give nothing.
func (c *Caller) ownsAbsent(on Object) bool {
	return c.Account.Kind == pulp.LocalUser && !on.NamespaceExists && on.Name != "" && inNamespaces[on.Kind] &&
		pulp.NamespaceOf(on.Name) == c.Account.Username && pulp.ValidName(c.Account.Username)
}

// inNamespaces are the kinds of objects whose names begin with their namespace.
var inNamespaces = map[Kind]bool{Repository: true, Distribution: true, PullThrough: true, Remote: true, Namespace: true}

// own returns the permissions in the absent namespace of the caller's own name. They do not apply to repositories and
// remotes that exist: those that a user has created there have a role for the user, and others may be left from a
// namespace of that name.
func (c *Caller) own(action Action, on Object) Granted {
	exists := action != Create && (on.Kind == Repository || on.Kind == Remote)
	if exists || !c.ownsAbsent(on) {
		return Granted{}
	}
	return Granted{Namespace: ownNamespace}
}

// MayCreatePath reports whether a caller may create a distribution with a base path. on is the distribution, with the
// grants for its path. In an absent namespace that is the permission to create the namespace, whose owner the caller
// becomes.
func MayCreatePath(c *Caller, on Object) bool {
	if on.NamespaceExists {
		return Allow(c, Create, on)
	}
	return Allow(c, Create, Object{
		Kind: Namespace, Name: pulp.NamespaceOf(on.Name), Granted: Granted{Everywhere: on.Granted.Everywhere},
	})
}

// MayPushNew is MayCreatePath for a push, which creates the distribution and its repository. An API token needs UsePush
// only.
func MayPushNew(c *Caller, on Object) bool {
	if c == nil || !c.Token.permits(Push, on) {
		return false
	}
	unlimited := *c
	unlimited.Token = nil
	return MayCreatePath(&unlimited, on)
}
