package auth_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// directory has accounts that change, and counts how often they are read.
type directory struct {
	accounts
	reads   int
	changed func()
}

// UserByName implements auth.Accounts.
func (d *directory) UserByName(ctx context.Context, name string) (pulp.User, error) {
	d.reads++
	return d.accounts.UserByName(ctx, name)
}

// OnChange implements auth.Accounts.
func (d *directory) OnChange(f func()) { d.changed = f }

// TestBearer checks which tokens are valid after changes of their account, by this process and by another one, and that
// requests with valid tokens do not read the account each time.
func TestBearer(t *testing.T) {
	t.Parallel()
	key, err := auth.KeptKey(t.Context(), &settings{})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		tokens := newTokens(t, key)
		user := pulp.User{ID: 7, Username: "carol", Hash: "h1", Active: true}
		d := &directory{accounts: accounts{"carol": user}}
		a := auth.New(d, slog.New(slog.DiscardHandler))
		issue := func(u pulp.User) string {
			t.Helper()
			issued, err := tokens.Issue(&access.Caller{Account: u}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return issued.Token
		}
		check := func(title, text string, valid bool, wantReads int) {
			t.Helper()
			who, b, err := a.Bearer(t.Context(), tokens, text)
			switch {
			case valid && (err != nil || who == nil || who.Account.ID != 7 || b.Username != "carol"):
				t.Errorf("%s: Bearer = %+v, %+v, %v", title, who, b, err)
			case !valid && (!fault.Is(err, fault.Unauthenticated) || who != nil):
				t.Errorf("%s: Bearer = %+v, %v, want Unauthenticated", title, who, err)
			}
			if d.reads != wantReads {
				t.Errorf("%s: %d reads, want %d", title, d.reads, wantReads)
			}
		}
		first := issue(user)
		check("the first use", first, true, 1)
		check("the second use", first, true, 1)
		time.Sleep(access.CacheLife)
		check("the cache has ended", first, true, 2)

		user.Hash = "h2"
		d.accounts["carol"] = user // as another process does
		second := issue(user)
		check("a token newer than the cached account", second, true, 3)
		check("a token of the old password", first, false, 4)
		user.Active = false
		d.accounts["carol"] = user
		check("another process disabled the account", second, true, 4)
		time.Sleep(access.CacheLife)
		check("and the cache has ended", second, false, 5)
		user.Active = true
		d.accounts["carol"] = user
		check("and it is enabled again", second, true, 6)
		delete(d.accounts, "carol")
		d.changed() // as this process does
		check("this process deleted the account", second, false, 7)

		anonymous, err := tokens.Issue(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if who, b, err := a.Bearer(t.Context(), tokens, anonymous.Token); who != nil || b.Username != "" || err != nil {
			t.Errorf("anonymous: Bearer = %+v, %+v, %v", who, b, err)
		}
	})
}
