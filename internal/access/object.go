package access

import "github.com/countersign/countersign/internal/pulp"

// OfRepository returns the object of actions on a repository.
func OfRepository(r pulp.Repository) Object {
	return Object{Kind: Repository, Name: r.Name, Push: r.Type == pulp.ContainerPush, Exists: true}
}

// OfDistribution returns the object of actions on a distribution of either kind.
func OfDistribution(d pulp.Distribution) Object {
	kind := Distribution
	if d.PullThrough {
		kind = PullThrough
	}
	return Object{Kind: kind, Name: d.BasePath, Exists: true, Private: d.Private}
}

// OfRemote returns the object of actions on a remote of either kind.
func OfRemote(r pulp.Remote) Object {
	kind := Remote
	if r.PullThrough {
		kind = PullThroughRemote
	}
	return Object{Kind: kind, Name: r.Name, Exists: true}
}

// OfNamespace returns the object of actions on a namespace. public reports whether it has a distribution that is not
// private.
func OfNamespace(n pulp.Namespace, public bool) Object {
	return Object{Kind: Namespace, Name: n.Name, Exists: true, Private: !public}
}

// OfService returns the object of actions on a signing service.
func OfService(s pulp.SigningService) Object {
	return Object{Kind: SigningService, Name: s.Name, Exists: true}
}

// OfTask returns the object of actions on a task. creator is the id of the account that started it; 0 for none.
func OfTask(creator int64) Object { return Object{Kind: Task, Exists: true, Creator: creator} }

// OfGroup returns the object of actions on a group.
func OfGroup(g pulp.Group) Object { return Object{Kind: Group, Name: g.Name, Exists: true} }

// OfWebhook returns the object of actions on a webhook.
func OfWebhook(w pulp.Webhook) Object { return Object{Kind: Webhook, Name: w.Name, Exists: true} }

// OfContent returns the object of actions on content units.
func OfContent() Object { return Object{Kind: Content, Exists: true} }

// OfServer returns the object of actions on the server as a whole.
func OfServer() Object { return Object{Kind: Server, Exists: true} }
