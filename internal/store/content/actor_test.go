package content_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/storetest"
)

// TestVersionsHaveTheirAuthors makes versions for several actors at the same time, which share commits on SQLite.
func TestVersionsHaveTheirAuthors(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	const n = 16
	ids := make([]string, n)
	accounts, images := make([]pulp.User, n), make([]pulp.Manifest, n)
	for i := range n {
		ids[i] = storetest.Target(t, s, fmt.Sprintf("acme/app%d", i)).Repository.ID
		images[i] = storetest.Image(storetest.PushBlob(t, s, ids[i], "config"), storetest.PushBlob(t, s, ids[i], "layer"))
		u, err := s.Accounts.PutUser(t.Context(), fmt.Sprint("user", i), "", false, true)
		if err != nil {
			t.Fatal(err)
		}
		accounts[i] = u
	}
	var pushes sync.WaitGroup
	for i := range n {
		pushes.Go(func() {
			ctx := actor.With(t.Context(), actor.Actor{ID: accounts[i].ID, Name: accounts[i].Username, Kind: actor.User})
			put := content.PutManifest{RepositoryID: ids[i], Manifest: images[i], Tags: []string{"v1"}}
			if _, err := s.Content.PutManifest(ctx, put); err != nil {
				t.Error(err)
			}
		})
	}
	pushes.Wait()
	for i := range n {
		v, err := s.Content.Version(t.Context(), ids[i], 1)
		if err != nil || v.Actor != accounts[i].Username || v.ActorID != accounts[i].ID {
			t.Errorf("version of %s: actor %q, id %d, %v", accounts[i].Username, v.Actor, v.ActorID, err)
		}
		if v, err = s.Content.Version(t.Context(), ids[i], 0); err != nil || v.Actor != actor.SystemName || v.ActorID != 0 {
			t.Errorf("version 0: actor %q, id %d, %v, want the system", v.Actor, v.ActorID, err)
		}
	}
	shown, _, err := s.Lists.Versions(t.Context(), list.Query{
		Where: []list.Filter{list.Where("repository", list.Equal, ids[3]), list.Where("number", list.Equal, 1)}, Limit: 1,
	})
	if err != nil || len(shown) != 1 || shown[0].Actor != "user3" || shown[0].ActorID != accounts[3].ID {
		t.Errorf("the list has %+v, %v", shown, err)
	}
	if err := s.Accounts.DeleteUser(t.Context(), accounts[3].ID, func(pulp.User) error { return nil }); err != nil {
		t.Fatal(err)
	}
	shown, _, err = s.Lists.Versions(t.Context(), list.Query{
		Where: []list.Filter{list.Where("repository", list.Equal, ids[3]), list.Where("number", list.Equal, 1)}, Limit: 1,
	})
	if err != nil || len(shown) != 1 || shown[0].Actor != "user3" || shown[0].ActorID != 0 {
		t.Errorf("after the deletion of the account the list has %+v, %v, want the name alone", shown, err)
	}
}
