package content_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
)

// short returns an event as its type without the common parts, its subject, and the number of its version.
func short(t *testing.T, e events.Event) string {
	t.Helper()
	var data events.Content
	if err := json.Unmarshal(e.Data, &data); err != nil {
		t.Fatal(err)
	}
	kind := strings.TrimSuffix(strings.TrimPrefix(string(e.Type), "io.countersign."), ".v1")
	return fmt.Sprintf("%s %s %d", kind, e.Subject, data.Version.Number)
}

// received returns the events of a webhook since the last call, in short.
type received struct {
	*testing.T
	store   *store.Store
	webhook string
	seen    int
}

func (r *received) want(want ...string) {
	r.Helper()
	all := storetest.Deliveries(r.T, r.store, r.webhook)
	got := []string{}
	for _, d := range all[r.seen:] {
		got = append(got, short(r.T, d.Event))
	}
	r.seen = len(all)
	if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
		r.Errorf("events (-want +got):\n%s", diff)
	}
}

// dataOf returns the data of an event.
func dataOf[T any](t *testing.T, e events.Event) (data T) {
	t.Helper()
	if err := json.Unmarshal(e.Data, &data); err != nil {
		t.Fatal(err)
	}
	return data
}

// TestEventsOfChanges compares the events of pushes, signatures, removals and deleted versions.
func TestEventsOfChanges(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	id := to.Repository.ID
	storetest.PushImage(t, s, id, "before", "old")
	w := &received{T: t, store: s, webhook: storetest.AddWebhook(t, s, "all", nil, "*").ID}
	none := &received{T: t, store: s, webhook: storetest.AddWebhook(t, s, "others", nil, "other/*", "acme").ID}
	off := &received{T: t, store: s, webhook: storetest.AddWebhook(t, s, "off", func(w *pulp.Webhook) { w.Active = false }, "*").ID}
	tags := &received{T: t, store: s, webhook: storetest.AddWebhook(t, s, "tags", func(w *pulp.Webhook) {
		w.EventTypes = []string{string(events.TagMoved)}
	}, "acme/*").ID}

	one, _ := storetest.PushImage(t, s, id, "one", "a")
	w.want("repository.push acme/app:a 2", "tag.created acme/app:a 2", "version.created acme/app 2")
	storetest.PushImage(t, s, id, "one", "a") // changes nothing
	w.want()
	storetest.PushImage(t, s, id, "by digest") // pending
	w.want()
	two, _ := storetest.PushImage(t, s, id, "two", "b", "a")
	w.want("repository.push acme/app:b 3", "tag.moved acme/app:a 3", "tag.created acme/app:b 3", "version.created acme/app 3")
	tags.want("tag.moved acme/app:a 3")

	all := storetest.Deliveries(t, s, w.webhook)
	moved := dataOf[events.TagData](t, all[4].Event)
	if moved.Tag != "a" || *moved.Digest != string(two.Digest) || *moved.OldDigest != string(one.Digest) || *moved.MediaType != two.MediaType ||
		moved.Repository.Name != "acme/app" || *moved.Repository.BasePath != "acme/app" ||
		moved.Actor != (events.Actor{Name: actor.SystemName, Kind: "system"}) {
		t.Errorf("moved tag: %s", all[4].Event.Data)
	}
	push := dataOf[events.PushData](t, all[3].Event)
	if push.Digest != string(two.Digest) || !slices.Equal(push.Tags, []string{"b", "a"}) {
		t.Errorf("push: %s", all[3].Event.Data)
	}
	version := dataOf[events.VersionData](t, all[6].Event)
	if version.Added.Tags != 2 || version.Removed.Tags != 1 || version.Present.Tags != 3 || !version.Complete {
		t.Errorf("version: %s", all[6].Event.Data)
	}

	sign := func(text string) {
		t.Helper()
		g := storetest.SignatureOf(t, s, to, two, text)
		if _, err := s.Content.Change(t.Context(), id, func(c *content.Change) error {
			id, err := c.Tx.PutSignature(g)
			if err != nil {
				return err
			}
			return c.Add(pulp.KindSignature, string(g.Digest), id)
		}); err != nil {
			t.Fatal(err)
		}
	}
	sign("x")
	at := "acme/app@" + string(two.Digest)
	w.want("signature.added "+at+" 4", "version.created acme/app 4")
	if _, err := s.Content.RemoveSignatures(t.Context(), nil, id, "45ACE14E3EBB9BBA"); err != nil {
		t.Fatal(err)
	}
	w.want("signature.removed "+at+" 5", "version.created acme/app 5")
	if _, err := s.Content.DeleteTag(t.Context(), id, "a", nil); err != nil {
		t.Fatal(err)
	}
	w.want("tag.removed acme/app:a 6", "version.created acme/app 6")

	for _, n := range []int64{6, 5} { // the tag and the signature return
		if err := s.Content.DeleteVersion(t.Context(), nil, id, n); err != nil {
			t.Fatal(err)
		}
	}
	w.want("tag.created acme/app:a 5", "signature.added "+at+" 4")
	if err := s.Content.DeleteVersion(t.Context(), nil, id, 2); err != nil { // changes no content
		t.Fatal(err)
	}
	w.want()
	none.want()
	off.want()
	tags.want()
}

// TestEventsOfRefusedChanges proves that a change that is rolled back has no events, and one of many tags a bounded number.
func TestEventsOfRefusedChanges(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	to := storetest.Target(t, s, "acme/app")
	w := storetest.AddWebhook(t, s, "all", nil, "acme/app")
	refused := errors.New("refused")
	m, _ := storetest.PushImage(t, s, to.Repository.ID, "one", "a")
	before := len(storetest.Deliveries(t, s, w.ID))
	err := s.Content.InTx(t.Context(), func(x *content.Tx) error {
		c, err := x.Begin(to.Repository.ID)
		if err != nil {
			return err
		}
		if err := c.Remove(pulp.KindTag, "a"); err != nil {
			return err
		}
		if _, err := c.End(); err != nil {
			return err
		}
		return refused
	})
	if !errors.Is(err, refused) {
		t.Fatal(err)
	}
	if n := len(storetest.Deliveries(t, s, w.ID)); n != before {
		t.Errorf("%d events of a change that was rolled back", n-before)
	}

	held, err := s.Serving.ServedManifest(t.Context(), to, string(m.Digest))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Content.Change(t.Context(), to.Repository.ID, func(c *content.Change) error {
		for i := range content.MaxAnnounced + 5 {
			if err := c.SetTag(fmt.Sprintf("t%05d", i), held.ID); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	all := storetest.Deliveries(t, s, w.ID)[before:]
	last := dataOf[events.VersionData](t, all[len(all)-1].Event)
	if len(all) != content.MaxAnnounced+1 || last.Complete || last.Added.Tags != content.MaxAnnounced+5 {
		t.Errorf("%d events, the last one is %s", len(all), all[len(all)-1].Event.Data)
	}
}

// TestEventQueriesUseIndexes proves that composing the events of a change does not read the content of the repository.
func TestEventQueriesUseIndexes(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	if s.DB.IsPostgres() {
		t.Skip("its planner depends on the numbers of rows")
	}
	for _, condition := range content.DiffConditions() {
		plan, err := sqldb.Collect(t.Context(), s.DB.Read(), func(row sqldb.Scanner) (v string, err error) {
			err = row.Scan(new(int), new(int), new(int), &v)
			return v, err
		}, `EXPLAIN QUERY PLAN SELECT c.key, m.digest, m.media_type FROM repository_content c JOIN tag t ON t.id = c.content_id JOIN manifest m ON m.id = t.manifest_id
			 WHERE c.repository_id = $1 AND +c.kind = $3 AND `+condition+` ORDER BY c.key || '' LIMIT $4`, "x", 1, pulp.KindTag, 10)
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(plan, "\n"); !strings.Contains(text, "repository_content_added (repository_id=? AND version_added") &&
			!strings.Contains(text, "repository_content_removed (repository_id=? AND version_removed") {
			t.Errorf("%s:\n%s", condition, text)
		}
	}
}
