package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/accounts"
)

// NewUser are the arguments of AddUser.
type NewUser struct {
	Name          string
	Admin         bool
	Email         string
	FirstName     string
	LastName      string
	PasswordStdin bool // read the password from the standard input instead of the terminal
}

// AddUser creates a local user with a password.
func (a *Admin) AddUser(ctx context.Context, n NewUser) error {
	if !pulp.ValidUsername(n.Name) {
		return fmt.Errorf("%s is not a valid name: use letters, digits and @ . + - _, at most %d, and not the form of names "+
			"of robots, NAMESPACE+NAME", display(n.Name), pulp.MaxAccountName)
	}
	return a.change(ctx, func(ctx context.Context, s *store.Store, entries *audit.Log) error {
		switch _, err := s.Accounts.UserByName(ctx, n.Name); {
		case err == nil:
			return fmt.Errorf("there is already an account named %s", n.Name)
		case !fault.Is(err, fault.NotFound):
			return err
		}
		u := pulp.User{
			Username: n.Name, Staff: n.Admin, Active: true, Email: n.Email, FirstName: n.FirstName, LastName: n.LastName,
		}
		var err error
		if u.Hash, err = a.newHash(ctx, u, n.PasswordStdin); err != nil {
			return err
		}
		if u, err = s.Accounts.CreateUser(ctx, u); err != nil {
			return err
		}
		recordUser(ctx, entries, "create user", u, slog.Bool("is_staff", u.Staff))
		return a.print("The user %s was created.\n", u.Username)
	})
}

// newHash reads a password for a user and returns its hash. The rules are those of the REST API.
func (a *Admin) newHash(ctx context.Context, u pulp.User, stdin bool) (string, error) {
	password, err := a.readPassword(ctx, u.Username, stdin)
	if err != nil {
		return "", err
	}
	return hashOf(password, u)
}

// hashOf returns the hash of a password that a user may choose.
func hashOf(password string, u pulp.User) (string, error) {
	if faults := auth.PasswordFaults(password, u); len(faults) > 0 {
		return "", errors.New(strings.Join(faults, " "))
	}
	return auth.HashPassword(password)
}

// recordUser writes the audit entry of a change of an account.
func recordUser(ctx context.Context, entries *audit.Log, action string, u pulp.User, details ...slog.Attr) {
	details = append([]slog.Attr{slog.String("username", u.Username)}, details...)
	entries.Record(ctx, audit.Entry{Action: action, Object: pulp.UserHref(u.ID), Result: audit.Done}, details...)
}

// UserEdit are the arguments of EditUser. Fields that are nil stay.
type UserEdit struct {
	Name      string
	Admin     *bool
	Email     *string
	FirstName *string
	LastName  *string
}

// EditUser changes the fields of an account, except its password.
func (a *Admin) EditUser(ctx context.Context, e UserEdit) error {
	details := e.details()
	if len(details) == 0 {
		return errors.New("nothing to change: use --admin or --no-admin, --email, --first-name, --last-name")
	}
	return a.editUser(ctx, e.Name, "edit user", details, func(u *pulp.User) error {
		if e.Admin != nil && u.Kind == pulp.Robot {
			return notLocal(*u, "cannot be an administrator")
		}
		if e.Admin != nil && u.Kind != pulp.LocalUser {
			return notLocal(*u, "is not an administrator by this command: its source decides")
		}
		e.apply(u)
		return nil
	}, "The user %s was changed.\n")
}

// details returns the changed fields for the audit log.
func (e UserEdit) details() (all []slog.Attr) {
	if e.Admin != nil {
		all = append(all, slog.Bool("is_staff", *e.Admin))
	}
	for _, field := range []struct {
		name  string
		value *string
	}{{"email", e.Email}, {"first_name", e.FirstName}, {"last_name", e.LastName}} {
		if field.value != nil {
			all = append(all, slog.String(field.name, *field.value))
		}
	}
	return all
}

// apply changes the fields of an account.
func (e UserEdit) apply(u *pulp.User) {
	if e.Admin != nil {
		u.Staff = *e.Admin
	}
	for field, value := range map[*string]*string{&u.Email: e.Email, &u.FirstName: e.FirstName, &u.LastName: e.LastName} {
		if value != nil {
			*field = *value
		}
	}
}

// SetPassword sets the password of a local user.
func (a *Admin) SetPassword(ctx context.Context, name string, stdin bool) error {
	return a.change(ctx, func(ctx context.Context, s *store.Store, entries *audit.Log) error {
		u, err := findUser(ctx, s, name)
		if err != nil {
			return err
		}
		if u.Kind != pulp.LocalUser {
			return notLocal(u, "has no password here")
		}
		hash, err := a.newHash(ctx, u, stdin)
		if err != nil {
			return err
		}
		if u, err = s.Accounts.EditUser(ctx, u.ID, func(u *pulp.User) error {
			u.Hash = hash
			return nil
		}); err != nil {
			return err
		}
		recordUser(ctx, entries, "change password", u)
		return a.print("The password of %s was changed. Its API tokens stay valid.\n", u.Username)
	})
}

// notLocal returns the error for a command that is for local users only.
func notLocal(u pulp.User, problem string) error {
	kind := string(u.Kind)
	if u.Source != "" {
		kind += ", " + u.Source
	}
	return fmt.Errorf("%s (%s) %s", display(u.Username), kind, problem)
}

// SetActive enables or disables an account.
func (a *Admin) SetActive(ctx context.Context, name string, active bool) error {
	action, text := "disable user", "The account %s is disabled. Servers refuse it within 10 seconds.\n"
	if active {
		action, text = "enable user", "The account %s is enabled.\n"
	}
	return a.editUser(ctx, name, action, nil, func(u *pulp.User) error {
		u.Active = active
		return nil
	}, text)
}

// editUser changes an account, writes the audit entry of an action, and prints text with its name.
func (a *Admin) editUser(
	ctx context.Context, name, action string, details []slog.Attr, edit func(*pulp.User) error, text string,
) error {
	return a.change(ctx, func(ctx context.Context, s *store.Store, entries *audit.Log) error {
		u, err := findUser(ctx, s, name)
		if err != nil {
			return err
		}
		if u, err = s.Accounts.EditUser(ctx, u.ID, edit); err != nil {
			return err
		}
		recordUser(ctx, entries, action, u, details...)
		return a.print(text, display(u.Username))
	})
}

// RemoveUser deletes an account with its roles, memberships and API tokens. Repositories and namespaces stay.
func (a *Admin) RemoveUser(ctx context.Context, name string) error {
	return a.change(ctx, func(ctx context.Context, s *store.Store, entries *audit.Log) error {
		u, err := findUser(ctx, s, name)
		if err != nil {
			return err
		}
		if err := s.Accounts.DeleteUser(ctx, u.ID, nil); err != nil {
			return err
		}
		recordUser(ctx, entries, "delete user", u)
		return a.print("The account %s was deleted, with its roles and API tokens.\n", display(u.Username))
	})
}

// findUser returns the account with a name.
func findUser(ctx context.Context, s *store.Store, name string) (pulp.User, error) {
	u, err := s.Accounts.UserByName(ctx, name)
	if fault.Is(err, fault.NotFound) {
		err = fmt.Errorf("there is no account named %s; `user list` shows all", display(name))
	}
	return u, err
}

// ListUsers prints all accounts: name, kind, source, whether it is an administrator, whether it is active, groups and
// email address.
func (a *Admin) ListUsers(ctx context.Context) error {
	return a.app.WithExistingStore(ctx, func(s *store.Store) error {
		users, err := s.Accounts.Users(ctx)
		if err != nil {
			return err
		}
		all, err := s.Accounts.Memberships(ctx)
		if err != nil {
			return err
		}
		groups := map[int64][]string{}
		for _, m := range all {
			groups[m.AccountID] = append(groups[m.AccountID], inSource(m.Group, m))
		}
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		_, _ = fmt.Fprintln(w, "NAME\tKIND\tSOURCE\tADMINISTRATOR\tACTIVE\tGROUPS\tEMAIL")
		for _, u := range users {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", display(u.Username), u.Kind, orDash(u.Source), yes(u.Staff),
				activity(u), orDash(strings.Join(groups[u.ID], ", ")), orDash(display(u.Email)))
		}
		return w.Flush()
	})
}

// inSource returns a name with the source that maintains a membership.
func inSource(name string, m accounts.Membership) string {
	if m.Source == "" {
		return display(name)
	}
	return display(name) + " (" + m.Source + ")"
}

// activity returns whether an account is active: "removed" if its source no longer has the person.
func activity(u pulp.User) string {
	if u.Kind == pulp.ExternalUser && u.Checked.IsZero() {
		return "removed"
	}
	return yes(u.Active)
}

func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

// display returns a name or text for the terminal: quoted, if it has characters that are not printable.
func display(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
