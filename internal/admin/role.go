package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"text/tabwriter"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/accounts"
)

// RoleScope names whose roles a command is about, and where they apply. At most one of User and Group, and at most one
// of the objects is set; without an object a role applies to all objects.
type RoleScope struct {
	User, Group    string
	Namespace      string
	Repository     string
	Distribution   string // base path
	Remote         string
	SigningService string
}

// assignee returns the account or group. Its zero value stands for neither.
func (r RoleScope) assignee(ctx context.Context, s *store.Store) (accounts.Assignee, error) {
	switch {
	case r.User != "" && r.Group != "":
		return accounts.Assignee{}, errors.New("give either a user or --group")
	case r.User != "":
		u, err := findUser(ctx, s, r.User)
		return accounts.Assignee{Account: u.ID, Name: u.Username}, err
	case r.Group != "":
		g, err := findGroup(ctx, s, r.Group)
		return accounts.Assignee{Group: g.ID, Name: g.Name}, err
	}
	return accounts.Assignee{}, nil
}

// object returns the kind and the name of the object; both are empty for all objects.
func (r RoleScope) object() (kind access.Kind, name string, err error) {
	for _, o := range []struct {
		kind access.Kind
		name string
	}{
		{access.Namespace, r.Namespace}, {access.Repository, r.Repository}, {access.Distribution, r.Distribution},
		{access.Remote, r.Remote}, {access.SigningService, r.SigningService},
	} {
		if o.name == "" {
			continue
		}
		if kind != "" {
			return "", "", errors.New("give at most one object: --namespace, --repository, --distribution, --remote or --signing-service")
		}
		kind, name = o.kind, o.name
	}
	return kind, name, nil
}

// key returns the access.Key of the object; empty for all objects.
func (r RoleScope) key(ctx context.Context, s *store.Store) (string, error) {
	kind, name, err := r.object()
	if err != nil || kind == "" {
		return "", err
	}
	key, err := s.Accounts.ObjectNamed(ctx, kind, name)
	if fault.Is(err, fault.NotFound) {
		hint := ""
		if kind == access.Namespace {
			hint = "; the first push to it creates it"
		}
		if kind == access.SigningService {
			hint = "; `list-signing-services` shows all"
		}
		err = fmt.Errorf("there is no %s named %s%s", kindNames[kind], display(name), hint)
	}
	return key, err
}

// collections are the collections of the objects of a kind. Those of repositories depend on their type.
var collections = map[access.Kind]string{
	access.Namespace: pulp.NamespaceCollection, access.Distribution: pulp.DistributionCollection,
	access.Remote: pulp.RemoteCollection, access.SigningService: pulp.SigningServiceCollection,
	access.PullThrough: pulp.PullThroughCollection, access.PullThroughRemote: pulp.PullThroughRemoteCollection,
}

// hrefOf returns the href of the object with an access.Key, as in the audit entries of the REST API; empty for all objects.
func hrefOf(ctx context.Context, s *store.Store, key string) (string, error) {
	kind, id, _ := strings.Cut(key, ":")
	switch access.Kind(kind) {
	case "":
		return "", nil
	case access.Repository:
		r, err := s.Catalog.RepositoryByID(ctx, id)
		return pulp.RepositoryHref(r.Type, id), err
	default:
		return pulp.Href(collections[access.Kind(kind)], id), nil
	}
}

// kindNames are the printed names of kinds of objects.
var kindNames = map[access.Kind]string{
	access.Namespace: "namespace", access.Repository: "repository", access.Distribution: "distribution with the base path",
	access.Remote: "remote", access.SigningService: "signing service", access.Group: "group", access.Task: "task",
	access.PullThrough: "pull-through distribution with the base path", access.PullThroughRemote: "pull-through remote",
}

// where describes the object for messages.
func (r RoleScope) where() string {
	kind, name, _ := r.object()
	if kind == "" {
		return "on all objects"
	}
	return fmt.Sprintf("on the %s %s", kindNames[kind], display(name))
}

// GrantRole assigns a role to an account or a group.
func (a *Admin) GrantRole(ctx context.Context, role string, r RoleScope) error {
	grant := func(ctx context.Context, s *store.Store, key string, to accounts.Assignee) error {
		_, err := s.Accounts.AssignRole(ctx, role, key, to)
		return err
	}
	return a.changeRole(ctx, "grant role", role, r, grant, "%s now has the role %s %s.\n")
}

// RevokeRole takes a role from an account or a group.
func (a *Admin) RevokeRole(ctx context.Context, role string, r RoleScope) error {
	revoke := func(ctx context.Context, s *store.Store, key string, from accounts.Assignee) error {
		return s.Accounts.RevokeRole(ctx, role, key, from)
	}
	return a.changeRole(ctx, "revoke role", role, r, revoke, "%s no longer has the role %s %s. Servers refuse it within 10 seconds.\n")
}

// changeRole assigns or revokes a role, writes the audit entry of an action, and prints text with the assignee, the role
// and the object.
func (a *Admin) changeRole(
	ctx context.Context, action, role string, r RoleScope,
	change func(context.Context, *store.Store, string, accounts.Assignee) error, text string,
) error {
	return a.change(ctx, func(ctx context.Context, s *store.Store, entries *audit.Log) error {
		if _, err := s.Accounts.RoleByName(ctx, role); fault.Is(err, fault.NotFound) {
			return fmt.Errorf("there is no role %s; `role show` lists all", display(role))
		} else if err != nil {
			return err
		}
		to, err := r.assignee(ctx, s)
		if err != nil {
			return err
		}
		if to == (accounts.Assignee{}) {
			return errors.New("give a user or --group")
		}
		key, err := r.key(ctx, s)
		if err != nil {
			return err
		}
		object, err := hrefOf(ctx, s, key)
		if err != nil {
			return err
		}
		if err := change(ctx, s, key, to); err != nil {
			return err
		}
		entries.Record(ctx, audit.Entry{Action: action, Object: cmp.Or(object, "all objects"), Result: audit.Done},
			slog.String("role", role), slog.String("assignee", to.String()))
		return a.print(text, display(cmp.Or(r.User, "The group "+r.Group)), role, r.where())
	})
}

// ListRoles prints the assignments of roles: those of an account or a group itself, those on an object, or all.
func (a *Admin) ListRoles(ctx context.Context, r RoleScope) error {
	return a.app.WithExistingStore(ctx, func(s *store.Store) error {
		to, err := r.assignee(ctx, s)
		if err != nil {
			return err
		}
		key, err := r.key(ctx, s)
		if err != nil {
			return err
		}
		all, err := s.Accounts.NamedAssignments(ctx, accounts.AssignmentFilter{Assignee: to, Object: key})
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(w, "ROLE\tUSER\tGROUP\tOBJECT")
		for _, v := range all {
			object := "all objects"
			if v.Kind != "" {
				object = string(v.Kind) + " " + display(v.Object)
			}
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", display(v.Role), orDash(display(v.Account)), orDash(display(v.Group)), object)
		}
		return w.Flush()
	})
}

// ShowRole prints the permissions of a role, or without one the names of all roles.
func (a *Admin) ShowRole(ctx context.Context, name string) error {
	return a.app.WithExistingStore(ctx, func(s *store.Store) error {
		if name == "" {
			return a.printRoles(ctx, s)
		}
		role, err := s.Accounts.RoleByName(ctx, name)
		if fault.Is(err, fault.NotFound) {
			return fmt.Errorf("there is no role %s; `role show` lists all", display(name))
		} else if err != nil {
			return err
		}
		for _, p := range role.Permissions {
			if err := a.print("%s\n", p); err != nil {
				return err
			}
		}
		return nil
	})
}

func (a *Admin) printRoles(ctx context.Context, s *store.Store) error {
	all, err := s.Accounts.Roles(ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	for _, r := range all {
		origin := "built in"
		if !r.Locked {
			origin = "of this installation"
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\n", display(r.Name), origin)
	}
	return w.Flush()
}
