package accounts_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestRuleAccount verifies that the account of a rule is created once, without a password, and that no other account
// becomes one.
func TestRuleAccount(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t).Accounts
	ids := make([]int64, 8)
	var calls sync.WaitGroup
	for i := range ids {
		calls.Go(func() {
			u, err := s.RuleAccount(t.Context(), "oidc:app")
			if err != nil || u.Kind != pulp.RuleIdentity || u.Staff || !u.Active || u.Hash != "" {
				t.Errorf("RuleAccount = %+v, %v", u, err)
			}
			ids[i] = u.ID
		})
	}
	calls.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("RuleAccount returned the ids %v, want one", ids)
		}
	}
	if _, err := s.PutUser(t.Context(), "oidc:other", "hash", true, true); err != nil {
		t.Fatal(err)
	}
	if u, err := s.RuleAccount(t.Context(), "oidc:other"); !fault.Is(err, fault.Conflict) {
		t.Errorf("RuleAccount of a local user = %+v, %v, want Conflict", u, err)
	}
}

// TestRuleAccountHasNoRightsOfItsOwn verifies that the account of a rule is never an administrator and gets no roles.
func TestRuleAccountHasNoRightsOfItsOwn(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	u, err := s.Accounts.RuleAccount(t.Context(), "oidc:app")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DB.InTx(t.Context(), func(x *sqldb.Tx) error {
		if err := accounts.Assign(x, u.ID, access.NamespaceOwner, access.Key(access.Namespace, to.Distribution.NamespaceID)); err != nil {
			return err
		}
		_, err := x.Exec(`UPDATE account SET is_staff = TRUE WHERE id = $1`, u.ID)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Accounts.AssignRole(t.Context(), access.NamespaceOwner, "", accounts.Assignee{Account: u.ID, Name: u.Username})
	if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "change oidc.rules") {
		t.Errorf("AssignRole: %v, want an error that names oidc.rules", err)
	}
	got, exists, err := s.Accounts.Granted(t.Context(), u.ID, access.Keys{Namespace: "acme"})
	if err != nil || !exists || got != (access.Granted{}) {
		t.Errorf("Granted = %v, %t, %v, want nothing", got, exists, err)
	}
	if u, err := s.Accounts.User(t.Context(), u.ID); err != nil || u.Staff {
		t.Errorf("User = %+v, %v, want no administrator", u, err)
	}
}

// TestRolePermissions reads a locked role and one that does not exist.
func TestRolePermissions(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t).Accounts
	for name, want := range map[string]access.Set{
		access.NamespaceOwner: access.Locked(access.NamespaceOwner), "absent": {},
	} {
		got, err := s.RolePermissions(t.Context(), name)
		exists, existsErr := s.RoleExists(t.Context(), name)
		if err != nil || existsErr != nil || got != want || exists != (want != access.Set{}) {
			t.Errorf("%s: %v, %v, exists %t, %v, want %v", name, got, err, exists, existsErr, want)
		}
	}
}

// TestUseToken verifies that a token is used once, on one of several servers, and that expired entries are deleted.
func TestUseToken(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	const issuer = "https://issuer.example"
	soon := time.Now().Add(time.Minute)
	var done, refused int
	var mu sync.Mutex
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			err := s.Accounts.UseToken(t.Context(), issuer, "1", soon)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				done++
			case fault.Is(err, fault.Conflict):
				refused++
			default:
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if done != 1 || refused != 7 {
		t.Errorf("%d uses, %d refusals, want 1 and 7", done, refused)
	}
	for _, other := range [][2]string{{"https://other.example", "1"}, {issuer, "2"}} {
		if err := s.Accounts.UseToken(t.Context(), other[0], other[1], soon); err != nil {
			t.Errorf("another token, %v: %v", other, err)
		}
	}
	count := func() (n int) {
		t.Helper()
		if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM used_token`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if err := s.Accounts.UseToken(t.Context(), issuer, "old", time.Now().Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 4 {
		t.Errorf("%d entries, want 4", n)
	}
	if err := s.Accounts.UseToken(t.Context(), issuer, "3", soon); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 4 { // without the old one
		t.Errorf("%d entries, want 4", n)
	}
}
