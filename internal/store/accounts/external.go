package accounts

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// confirmedEvery is the shortest time between two writes of the time of an account's confirmation.
const confirmedEvery = time.Minute

// External describes a person as a source confirms them.
type External struct {
	Source string
	// ID is KIND=VALUE, the identity in the source by an attribute of this kind; empty if the source has none.
	ID        string
	Name      string
	FirstName string
	LastName  string
	Email     string
	Staff     bool
	Groups    []string // sorted names of all groups that the source gives the person
}

// Change is the effect of PutExternal or RemoveExternal on an account.
type Change string

// The changes.
const (
	Unchanged Change = ""       // at most the time of the confirmation
	Created   Change = "create" // a new account
	Updated   Change = "update" // the description, a membership or the administrator flag; or the person is back
	Removed   Change = "remove" // the source no longer has the person
)

// PutExternal records that a source has confirmed a person now. It creates or updates the account, its memberships of
// this source and the groups. id is that of the account which was confirmed; with 0 the account is looked up by
// identity or name, and created if there is none. The error is Conflict if the name belongs to another account, and
// NotFound if the account id was deleted.
func (s *Store) PutExternal(ctx context.Context, id int64, e External) (pulp.User, Change, error) {
	if u, err := s.unchanged(ctx, id, e); err == nil {
		return u, Unchanged, nil
	} else if !errors.Is(err, errChanged) {
		return pulp.User{}, Unchanged, err
	}
	type result struct {
		user   pulp.User
		change Change
	}
	r, err := sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (result, error) {
		// Logins of one person at a time would create two accounts.
		if err := t.LockNamed("countersign:external:" + e.Source); err != nil {
			return result{}, err
		}
		u, err := externalAccount(t, id, e)
		if err != nil {
			return result{}, err
		}
		change := Updated
		if u.ID == 0 {
			change = Created
			if u, err = createExternal(t, e); err != nil {
				return result{}, err
			}
		}
		groups, err := putMemberships(t, u.ID, e)
		if err != nil {
			return result{}, err
		}
		if change == Updated && !groups && describes(u, e) {
			change = Unchanged
		}
		if change != Unchanged {
			s.Changed(t)
		}
		u, err = record.ScanUser(t.Row(`
			UPDATE account SET username = $2, external_id = $3, is_staff = $4, first_name = $5, last_name = $6, email = $7,
			       checked = $8, updated = CASE WHEN $9 THEN $8 ELSE updated END
			 WHERE id = $1 RETURNING `+record.AccountColumns,
			u.ID, e.Name, e.ID, e.Staff, e.FirstName, e.LastName, e.Email, t.Now, change != Unchanged))
		return result{u, change}, err
	})
	return r.user, r.change, err
}

// RemoveExternal records that the source of an account no longer has the person. The account is inactive until
// PutExternal.
func (s *Store) RemoveExternal(ctx context.Context, id int64) (Change, error) {
	return sqldb.InTx(ctx, s.db, func(t *sqldb.Tx) (Change, error) {
		n, err := t.Exec(`
			UPDATE account SET checked = NULL, updated = $2
			 WHERE id = $1 AND kind = 'external' AND checked IS NOT NULL`, id, t.Now)
		if err != nil || n == 0 {
			return Unchanged, err
		}
		s.Changed(t)
		return Removed, nil
	})
}

// StaleExternal returns the active accounts of a source whose latest confirmation is older than a time, the oldest
// first, at most limit of them.
func (s *Store) StaleExternal(ctx context.Context, source string, before time.Time, limit int) ([]pulp.User, error) {
	return sqldb.Collect(ctx, s.db.Read(), record.ScanUser, `
		SELECT `+record.AccountColumns+` FROM account
		 WHERE kind = 'external' AND source = $1 AND is_active AND checked < $2 ORDER BY checked LIMIT $3`,
		source, before.UnixMicro(), limit)
}

var (
	errChanged      = errors.New("changed")
	errOtherAccount = fault.New(fault.Conflict, "The name belongs to another account.")
)

// unchanged returns the account if it needs no write. Otherwise the error is errChanged.
func (s *Store) unchanged(ctx context.Context, id int64, e External) (pulp.User, error) {
	u, err := s.UserByName(ctx, e.Name)
	switch {
	case fault.Is(err, fault.NotFound):
		return u, errChanged
	case err != nil:
		return u, err
	case !describes(u, e) || id != 0 && u.ID != id || s.db.Now().Sub(u.Checked) >= confirmedEvery:
		return u, errChanged
	}
	names, err := memberships(ctx, s.db.Read(), u.ID, e.Source)
	if err == nil && !slices.Equal(names, e.Groups) {
		err = errChanged
	}
	return u, err
}

// describes reports whether a confirmation would change nothing in an account but the time and the groups.
func describes(u pulp.User, e External) bool {
	return u.Kind == pulp.ExternalUser && u.Source == e.Source && u.ExternalID == e.ID && u.Username == e.Name &&
		u.Staff == e.Staff && u.FirstName == e.FirstName && u.LastName == e.LastName && u.Email == e.Email && !u.Checked.IsZero()
}

// externalAccount returns the account of a person, or the zero User if there is none and id is 0.
func externalAccount(t *sqldb.Tx, id int64, e External) (pulp.User, error) {
	find := func(where string, args ...any) (pulp.User, error) {
		u, err := record.ScanUser(t.Row(`SELECT `+record.AccountColumns+` FROM account WHERE `+where, args...))
		if errors.Is(err, sql.ErrNoRows) {
			return pulp.User{}, nil
		}
		return u, err
	}
	byName, err := find(`username = $1`, e.Name)
	if err != nil {
		return byName, err
	}
	byID := pulp.User{}
	if e.ID != "" {
		if byID, err = find(`source = $1 AND external_id = $2`, e.Source, e.ID); err != nil {
			return byID, err
		}
	}
	// An account without an identity, or with one of another kind, was made with other settings of the source.
	sameKind := byName.ExternalID != "" && e.ID != "" && idKind(byName.ExternalID) == idKind(e.ID)
	found := byID
	switch {
	case byName.ID != 0 && (byName.Kind != pulp.ExternalUser || byName.Source != e.Source):
		return pulp.User{}, errOtherAccount
	case byName.ID != 0 && byName.ID != byID.ID && (sameKind || byID.ID != 0):
		return pulp.User{}, fault.New(fault.Conflict,
			"The name belongs to the account of another person of the source. Delete that account if the person has left.")
	case byID.ID == 0:
		found = byName
	}
	if id != 0 && found.ID != id {
		return pulp.User{}, fault.New(fault.NotFound, noUser)
	}
	return found, nil
}

// idKind returns the kind of an identity.
func idKind(id string) string {
	kind, _, _ := strings.Cut(id, "=")
	return kind
}

// createExternal creates the account of a person. The error is Conflict if another account has the name meanwhile.
func createExternal(t *sqldb.Tx, e External) (pulp.User, error) {
	u, err := CreateUser(t, pulp.User{
		Username: e.Name, Kind: pulp.ExternalUser, Active: true, Source: e.Source, ExternalID: e.ID, Checked: time.UnixMicro(t.Now),
	})
	if fault.Is(err, fault.Invalid) {
		return u, errOtherAccount
	}
	return u, err
}

// memberships returns the sorted names of the groups that a source gives an account.
func memberships(ctx context.Context, q sqldb.Querier, id int64, source string) ([]string, error) {
	names, err := sqldb.Collect(ctx, q, sqldb.ScanString, `
		SELECT g.name FROM account_group_member m JOIN account_group g ON g.id = m.group_id
		 WHERE m.account_id = $1 AND m.source = $2`, id, source)
	slices.Sort(names)
	return names, err
}

// putMemberships makes the groups that a source gives an account exactly those of e, and reports whether it changed
// any. It creates groups that do not exist.
func putMemberships(t *sqldb.Tx, id int64, e External) (changed bool, err error) {
	if _, err := t.Exec(`
		INSERT INTO account_group (name, created, updated) SELECT j.value, $2, $2 FROM json_each($1) j WHERE TRUE
		ON CONFLICT (name) DO NOTHING`, sqldb.ToJSON(append([]string{}, e.Groups...)), t.Now); err != nil {
		return false, err
	}
	return SetMemberships(t, id, e.Source, e.Groups)
}
