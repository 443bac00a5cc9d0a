package audits_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/storetest"
)

// entries returns the stored entries that satisfy conditions, in the order of the list.
func entries(t *testing.T, s *store.Store, where ...list.Filter) []audit.Entry {
	t.Helper()
	found, _, err := list.AuditList.Rows(t.Context(), s.Lists, list.Query{
		Where: where, Order: []list.Order{{Field: "at", Desc: true}}, Limit: 1000,
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestAddAndList(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	alice, err := s.Accounts.PutUser(t.Context(), "alice", "", false, true)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 12, 1, 9, 30, 0, 123456000, time.UTC)
	first := audit.Entry{
		ID: pulp.NewID(), At: at, Actor: actor.Actor{ID: alice.ID, Name: "alice", Kind: actor.User, Identity: "token x", Address: "192.0.2.1"},
		Action: "push manifest", Object: "acme/app", Result: audit.Done, Status: 201, Count: 1, Correlation: "c",
		Details: json.RawMessage(`{"tags":["a\u0000"]}`),
	}
	second := audit.Entry{
		ID: pulp.NewID(), At: at.Add(time.Microsecond), Actor: actor.BySystem(), Action: "login", Object: strings.Repeat("ü", 1000),
		Result: audit.Denied, Count: 1 << 40, Details: json.RawMessage(`{}`),
	}
	if err := s.Audits.Add(t.Context(), []audit.Entry{first, second}); err != nil {
		t.Fatal(err)
	}
	if err := s.Audits.Add(t.Context(), []audit.Entry{first}); err != nil { // after an answer that was lost
		t.Fatal(err)
	}
	if diff := cmp.Diff([]audit.Entry{second, first}, entries(t, s)); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]audit.Entry{first}, entries(t, s, list.Where("object", list.HasPrefix, "acme/"))); diff != "" {
		t.Errorf("entries of acme/ (-want +got):\n%s", diff)
	}
	if err := s.Accounts.DeleteUser(t.Context(), alice.ID, func(pulp.User) error { return nil }); err != nil {
		t.Fatal(err)
	}
	first.Actor.ID = 0
	if diff := cmp.Diff([]audit.Entry{second, first}, entries(t, s)); diff != "" {
		t.Errorf("entries after the deletion of the account (-want +got):\n%s", diff)
	}
}

func TestPurgeDeletesOldEntriesInPieces(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	now := time.Now().Truncate(time.Microsecond)
	var all []audit.Entry
	for i := range 10 {
		all = append(all, audit.Entry{
			ID: pulp.NewID(), At: now.Add(time.Duration(i) * time.Hour), Actor: actor.BySystem(), Action: "x", Object: fmt.Sprint(i),
			Result: audit.Done, Count: 1, Details: json.RawMessage(`{}`),
		})
	}
	if err := s.Audits.Add(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		deleted int64
		oldest  string
	}{{3, "3"}, {3, "6"}, {1, "7"}, {0, "7"}} {
		n, err := s.Audits.Purge(t.Context(), all[7].At, 3)
		left := entries(t, s)
		if err != nil || n != want.deleted || left[len(left)-1].Object != want.oldest {
			t.Errorf("Purge = %d, %v, the oldest is %s; want %+v", n, err, left[len(left)-1].Object, want)
		}
	}
}
