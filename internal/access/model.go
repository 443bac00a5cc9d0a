package access

import (
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/pulp"
)

// Model returns Pulp's name of the kind of objects that a permission is for, APP.MODEL. The permissions on the objects
// of a namespace are the namespace's.
func (p Permission) Model() string {
	app, code, _ := strings.Cut(string(p), ".")
	switch {
	case strings.HasPrefix(code, "namespace_"):
		return "container.containernamespace"
	case p == PullNewDistribution:
		return "container.containerpullthroughdistribution"
	case p == DeleteVersions:
		return "container.containerrepository"
	}
	return app + "." + code[strings.LastIndexByte(code, '_')+1:]
}

// models are the models of the kinds of objects on which roles can be assigned. Permissions on repositories count for
// push repositories too.
var models = map[Kind][]string{
	Repository:   {"container.containerrepository"},
	Distribution: {"container.containerdistribution"},
	Remote:       {"container.containerremote"},

	PullThrough:       {"container.containerpullthroughdistribution"},
	PullThroughRemote: {"container.containerpullthroughremote"},

	Namespace:      {"container.containernamespace"},
	Task:           {"core.task"},
	Group:          {"core.group"},
	SigningService: {"core.signingservice"},
	Webhook:        {"countersign.webhook"},
}

// Applicable returns the permissions that a role can give on an object of a kind. push is set for repositories of the
// type container-push. It is empty for kinds on whose objects no role can be assigned.
func Applicable(kind Kind, push bool) Set {
	of := models[kind]
	if push {
		of = append(slices.Clip(of), "container.containerpushrepository")
	}
	var s Set
	for _, p := range Permissions {
		if slices.Contains(of, p.Model()) {
			s = s.Or(SetOf(p))
		}
	}
	return s
}

// inNamespace returns the permissions on a namespace that apply to the objects of a kind in it.
func inNamespace(kind Kind, push bool) Set {
	var s Set
	for _, r := range Rules {
		switch {
		case r.Kind != kind || kind == Namespace:
		case push:
			s = s.Or(SetOf(r.PushNamespace...))
		default:
			s = s.Or(SetOf(r.Namespace...))
		}
	}
	return s
}

// Held returns the permissions that a caller has on an object, sorted by name: those of its roles on the object and on
// its namespace, and all that exist for administrators. on has Granted set (Decider.Load).
func Held(c *Caller, on Object) []Permission {
	object, namespace := Applicable(on.Kind, on.Push), inNamespace(on.Kind, on.Push)
	var has Set
	switch {
	case c == nil || !c.Account.Active:
	case c.Account.Staff:
		has = object.Or(namespace)
	default:
		g := on.Granted.Or(c.own(View, on))
		if on.Kind == Namespace {
			g.Object = g.Object.Or(g.Namespace)
		}
		if on.Kind == Task && on.Creator != 0 && on.Creator == c.Account.ID {
			g.Object = g.Object.Or(Locked(TaskOwner))
		}
		has = g.Everywhere.Or(g.Object).And(object).Or(g.Everywhere.Or(g.Namespace).And(namespace))
	}
	held := []Permission{}
	for p := range has.All() {
		if c.Token.permitsAny(p, on) {
			held = append(held, p)
		}
	}
	slices.Sort(held)
	return held
}

// permitsAny reports whether the token permits one of the actions on an object for which a permission suffices.
func (t *Token) permitsAny(p Permission, on Object) bool {
	return !t.Limited() || slices.ContainsFunc(Rules, func(r Rule) bool {
		return r.Kind == on.Kind && r.lists(p) && t.permits(r.Action, on)
	})
}

// lists reports whether a permission suffices for the rule's action.
func (r Rule) lists(p Permission) bool {
	all := slices.Concat(r.Object, r.PushObject, r.Namespace, r.PushNamespace, r.Serving, r.Everywhere)
	return slices.Contains(all, p)
}

// KindOf returns the kind of the objects of a collection of the REST API, and whether they are push repositories. ok is
// false if no role can be assigned on them.
func KindOf(collection string) (kind Kind, push, ok bool) {
	switch collection {
	case pulp.PushCollection:
		return Repository, true, true
	case pulp.ContainerCollection:
		return Repository, false, true
	case pulp.DistributionCollection:
		return Distribution, false, true
	case pulp.RemoteCollection:
		return Remote, false, true
	case pulp.PullThroughCollection:
		return PullThrough, false, true
	case pulp.PullThroughRemoteCollection:
		return PullThroughRemote, false, true
	case pulp.NamespaceCollection:
		return Namespace, false, true
	case pulp.TaskCollection:
		return Task, false, true
	case pulp.GroupCollection:
		return Group, false, true
	case pulp.SigningServiceCollection:
		return SigningService, false, true
	case pulp.WebhookCollection:
		return Webhook, false, true
	}
	return "", false, false
}
