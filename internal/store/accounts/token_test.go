package accounts_test

import (
	"slices"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestPurgeAPITokens deletes expired tokens in batches, and no others.
func TestPurgeAPITokens(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	alice := user(t, s, "alice")
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	kept := map[string]bool{}
	for _, expires := range []time.Duration{-3 * time.Hour, -2 * time.Hour, -time.Hour, 0, time.Hour} {
		at := now.Add(expires)
		k, _, err := s.Accounts.CreateAPIToken(t.Context(), access.APIToken{AccountID: alice.ID, Name: "x", Expires: &at})
		if err != nil {
			t.Fatal(err)
		}
		kept[k.ID] = expires >= 0
	}
	k, _, err := s.Accounts.CreateAPIToken(t.Context(), access.APIToken{AccountID: alice.ID, Name: "without an end"})
	if err != nil {
		t.Fatal(err)
	}
	kept[k.ID] = true
	for _, want := range []int64{2, 1, 0} {
		if n, err := s.Accounts.PurgeAPITokens(t.Context(), now, 2); err != nil || n != want {
			t.Errorf("PurgeAPITokens = %d, %v, want %d", n, err, want)
		}
	}
	for id, want := range kept {
		if _, err := s.Accounts.APIToken(t.Context(), id); (err == nil) != want {
			t.Errorf("a token is kept: %v, want %t", err, want)
		}
	}
}

// TestAPITokens stores, finds, uses and deletes API tokens. Only the hash of the secret is stored.
func TestAPITokens(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	alice := user(t, s, "alice")
	changes := 0
	s.Accounts.OnChange(func() { changes++ })
	expires := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	want := access.APIToken{
		Token:     access.Token{Patterns: []string{"acme/*"}, Actions: []access.Use{access.UsePull, access.UsePush}},
		AccountID: alice.ID, Name: "ci", Expires: &expires,
	}
	made, secret, err := s.Accounts.CreateAPIToken(t.Context(), want)
	if err != nil || !access.IsSecret(secret) || made.Hint != secret[:10] || made.Account != "alice" || made.ID == "" ||
		!slices.Equal(made.Patterns, want.Patterns) || !slices.Equal(made.Actions, want.Actions) || !made.Expires.Equal(expires) {
		t.Fatalf("CreateAPIToken = %+v, %q, %v", made, secret, err)
	}
	unlimited, other, err := s.Accounts.CreateAPIToken(t.Context(), access.APIToken{AccountID: alice.ID, Name: "all"})
	if err != nil || other == secret || unlimited.Patterns != nil || unlimited.Actions != nil || unlimited.Expires != nil || unlimited.Limited() {
		t.Fatalf("CreateAPIToken = %+v, %v", unlimited, err)
	}
	used := time.Date(2029, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := s.Accounts.APITokensUsed(t.Context(), map[string]time.Time{made.ID: used, "gone": used}); err != nil {
		t.Fatal(err)
	}
	found, err := s.Accounts.APITokenByHash(t.Context(), access.HashSecret(secret))
	if err != nil || found.ID != made.ID || found.LastUsed == nil || !found.LastUsed.Equal(used) {
		t.Errorf("APITokenByHash = %+v, %v", found, err)
	}
	if byID, err := s.Accounts.APIToken(t.Context(), made.ID); err != nil || byID.Name != "ci" {
		t.Errorf("APIToken = %+v, %v", byID, err)
	}
	if changes != 0 {
		t.Errorf("%d announcements of new tokens and uses, want none", changes)
	}
	if _, err := s.Accounts.APITokenByHash(t.Context(), secret); !fault.Is(err, fault.NotFound) {
		t.Errorf("the secret itself is found: %v", err)
	}
	child, _, err := s.Accounts.CreateAPIToken(t.Context(), access.APIToken{AccountID: alice.ID, Name: "child", Parent: made.ID})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Accounts.DeleteAPIToken(t.Context(), made.ID); err != nil || changes != 1 {
		t.Errorf("DeleteAPIToken = %v, %d announcements", err, changes)
	}
	if _, err := s.Accounts.APIToken(t.Context(), made.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("a deleted token: %v", err)
	}
	if _, err := s.Accounts.APIToken(t.Context(), child.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("a token that a deleted one created: %v", err)
	}
	if err := s.Accounts.DeleteAPIToken(t.Context(), made.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("the second DeleteAPIToken = %v", err)
	}
	if err := s.Accounts.DeleteUser(t.Context(), alice.ID, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Accounts.APIToken(t.Context(), unlimited.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("a token of a deleted account: %v", err)
	}
	if _, _, err := s.Accounts.CreateAPIToken(t.Context(), want); !fault.Is(err, fault.NotFound) {
		t.Errorf("a token for a deleted account: %v", err)
	}
}
