package admin

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
)

// AddGroup creates a group.
func (a *Admin) AddGroup(ctx context.Context, name string) error {
	if n := utf8.RuneCountInString(name); n == 0 || n > pulp.MaxAccountName || strings.TrimSpace(name) != name || display(name) != name {
		return fmt.Errorf("%s is not a valid name: use 1 to %d printable characters, without spaces around them",
			strconv.Quote(name), pulp.MaxAccountName)
	}
	return a.change(ctx, func(ctx context.Context, s *store.Store, entries *audit.Log) error {
		g, err := s.Accounts.CreateGroup(ctx, name, 0)
		if fault.Is(err, fault.Invalid) {
			return fmt.Errorf("there is already a group named %s", name)
		} else if err != nil {
			return err
		}
		recordGroup(ctx, entries, "create group", g)
		return a.print("The group %s was created.\n", name)
	})
}

// RemoveGroup deletes a group with its memberships and roles. Its members stay.
func (a *Admin) RemoveGroup(ctx context.Context, name string) error {
	return a.change(ctx, func(ctx context.Context, s *store.Store, entries *audit.Log) error {
		g, err := findGroup(ctx, s, name)
		if err != nil {
			return err
		}
		if err := s.Accounts.DeleteGroup(ctx, g.ID); err != nil {
			return err
		}
		recordGroup(ctx, entries, "delete group", g)
		return a.print("The group %s was deleted, with its roles. Its members stay.\n", display(name))
	})
}

// AddMember adds an account to a group.
func (a *Admin) AddMember(ctx context.Context, group, user string) error {
	add := func(s *store.Store) func(context.Context, int64, int64) error { return s.Accounts.AddMember }
	return a.changeMember(ctx, "add member", group, user, add, "%s is a member of the group %s.\n")
}

// RemoveMember removes an account from a group.
func (a *Admin) RemoveMember(ctx context.Context, group, user string) error {
	remove := func(s *store.Store) func(context.Context, int64, int64) error { return s.Accounts.RemoveMember }
	return a.changeMember(ctx, "remove member", group, user, remove, "%s is no longer a member of the group %s.\n")
}

// changeMember changes the membership of an account in a group, writes the audit entry of an action, and prints text
// with both names.
func (a *Admin) changeMember(
	ctx context.Context, action, group, user string, change func(*store.Store) func(context.Context, int64, int64) error, text string,
) error {
	return a.change(ctx, func(ctx context.Context, s *store.Store, entries *audit.Log) error {
		g, err := findGroup(ctx, s, group)
		if err != nil {
			return err
		}
		u, err := findUser(ctx, s, user)
		if err != nil {
			return err
		}
		err = change(s)(ctx, g.ID, u.ID)
		if fault.Is(err, fault.NotFound) {
			return fmt.Errorf("%s is not a member of the group %s", display(user), display(group))
		} else if err != nil {
			return err
		}
		recordGroup(ctx, entries, action, g, slog.String("username", u.Username))
		return a.print(text, display(u.Username), display(g.Name))
	})
}

// recordGroup writes the audit entry of a change of a group.
func recordGroup(ctx context.Context, entries *audit.Log, action string, g pulp.Group, details ...slog.Attr) {
	details = append([]slog.Attr{slog.String("name", g.Name)}, details...)
	entries.Record(ctx, audit.Entry{Action: action, Object: pulp.GroupHref(g.ID), Result: audit.Done}, details...)
}

// findGroup returns the group with a name.
func findGroup(ctx context.Context, s *store.Store, name string) (pulp.Group, error) {
	g, err := s.Accounts.GroupByName(ctx, name)
	if fault.Is(err, fault.NotFound) {
		err = fmt.Errorf("there is no group named %s; `group list` shows all", display(name))
	}
	return g, err
}

// ListGroups prints all groups with their members, each with the source that maintains the membership.
func (a *Admin) ListGroups(ctx context.Context) error {
	return a.app.WithExistingStore(ctx, func(s *store.Store) error {
		groups, err := s.Accounts.Groups(ctx)
		if err != nil {
			return err
		}
		all, err := s.Accounts.Memberships(ctx)
		if err != nil {
			return err
		}
		members := map[int64][]string{}
		for _, m := range all {
			members[m.GroupID] = append(members[m.GroupID], inSource(m.Account, m))
		}
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(w, "GROUP\tMEMBERS")
		for _, g := range groups {
			_, _ = fmt.Fprintf(w, "%s\t%s\n", display(g.Name), orDash(strings.Join(members[g.ID], ", ")))
		}
		return w.Flush()
	})
}
