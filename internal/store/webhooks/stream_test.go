package webhooks_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/eventlog"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/store/webhooks"
)

const lease = time.Minute

// claimed claims the only due stream.
func claimed(t *testing.T, s *store.Store) *webhooks.Claim {
	t.Helper()
	due, err := s.Webhooks.Due(t.Context(), nil)
	if err != nil || len(due) != 1 {
		t.Fatalf("due: %v, %v; want one stream", due, err)
	}
	c, err := s.Webhooks.Claim(t.Context(), due[0], "me", lease)
	if err != nil || c == nil {
		t.Fatalf("claim: %v, %v", c, err)
	}
	return c
}

func noneDue(t *testing.T, s *store.Store) {
	t.Helper()
	if due, err := s.Webhooks.Due(t.Context(), nil); err != nil || len(due) > 0 {
		t.Fatalf("due: %v, %v; want none", due, err)
	}
}

func waiting(t *testing.T, s *store.Store, c *webhooks.Claim) webhooks.Queue {
	t.Helper()
	q, err := s.Webhooks.Waiting(t.Context(), c, 100)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// record records an event of the type Push about a repository.
func record(t *testing.T, s *store.Store, r pulp.Repository, subject string) {
	t.Helper()
	err := s.DB.InTx(t.Context(), func(x *sqldb.Tx) error {
		to, err := eventlog.For(x, r.ID, r.Name)
		if err != nil {
			return err
		}
		e, err := events.New(events.Push, "/x/", subject, map[string]string{"subject": subject})
		to.Record(e)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func attempt(c *webhooks.Claim, d events.Delivery, failure string) events.Attempt {
	return events.Attempt{
		WebhookID: c.WebhookID, DeliveryID: d.ID, RepositoryID: d.RepositoryID, EventID: d.Event.ID, EventType: d.Event.Type, At: time.Now(),
		Duration: time.Second, Status: 200, Error: failure,
	}
}

// TestStream claims a stream, delivers its events in order, fails and closes it.
func TestStream(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	r := storetest.Target(t, s, "acme/app").Repository
	w := storetest.AddWebhook(t, s, "hook", nil, "acme/*")
	noneDue(t, s)
	for i := range 3 {
		record(t, s, r, fmt.Sprint(i))
	}
	c := claimed(t, s)
	noneDue(t, s) // it is claimed
	q := waiting(t, s, c)
	if len(q.Deliveries) != 3 || q.Deliveries[0].Event.Subject != "0" || q.Deliveries[2].Event.Subject != "2" || q.Failures != 0 {
		t.Fatalf("queue: %+v", q)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Webhooks.Delivered(t.Context(), c, attempt(c, q.Deliveries[0], ""), false, lease))
	must(s.Webhooks.Failed(t.Context(), c, attempt(c, q.Deliveries[1], "500"), time.Hour))
	noneDue(t, s)
	record(t, s, r, "3")
	noneDue(t, s) // it waits after a failure
	got, err := s.Webhooks.Webhook(t.Context(), w.ID)
	must(err)
	if got.Backlog != 3 || got.FailingSince == nil {
		t.Errorf("webhook: %+v", got)
	}
	_, err = s.Webhooks.EditWebhook(t.Context(), w.ID, func(*pulp.Webhook) {})
	must(err)
	again := claimed(t, s)
	for name, err := range map[string]error{ // the claim that has ended
		"Extend": s.Webhooks.Extend(t.Context(), c, lease), "Release": s.Webhooks.Release(t.Context(), c, 0),
		"Delivered": s.Webhooks.Delivered(t.Context(), c, attempt(c, q.Deliveries[1], ""), false, lease),
		"Failed":    s.Webhooks.Failed(t.Context(), c, attempt(c, q.Deliveries[1], "x"), 0),
		"Refuse":    s.Webhooks.Refuse(t.Context(), c, q.Deliveries[1:]),
		"GaveUp":    s.Webhooks.GaveUp(t.Context(), c, attempt(c, q.Deliveries[1], "x"), lease),
	} {
		if !errors.Is(err, webhooks.ErrFenced) {
			t.Errorf("%s with an ended claim: %v", name, err)
		}
	}
	if _, err := s.Webhooks.Waiting(t.Context(), c, 1); !errors.Is(err, webhooks.ErrFenced) {
		t.Errorf("Waiting with an ended claim: %v", err)
	}
	q = waiting(t, s, again)
	if len(q.Deliveries) != 3 || q.Deliveries[0].Attempts != 1 || q.Deliveries[0].Error != "500" || q.Failures != 1 {
		t.Fatalf("queue: %+v", q)
	}
	for _, d := range q.Deliveries {
		must(s.Webhooks.Delivered(t.Context(), again, attempt(again, d, ""), true, lease))
	}
	if q := waiting(t, s, again); len(q.Deliveries) != 0 {
		t.Fatalf("queue: %+v", q)
	}
	record(t, s, r, "4")
	if closed, err := s.Webhooks.Close(t.Context(), again); closed || err != nil {
		t.Errorf("Close of a stream with a new delivery: %v, %v", closed, err)
	}
	q = waiting(t, s, again)
	must(s.Webhooks.Refuse(t.Context(), again, q.Deliveries))
	waiting(t, s, again)
	if closed, err := s.Webhooks.Close(t.Context(), again); !closed || err != nil {
		t.Errorf("Close: %v, %v", closed, err)
	}
	attempts, _, err := s.Lists.Attempts(t.Context(), list.Query{Limit: 10})
	must(err)
	if len(attempts) != 5 || attempts[3].Error != "500" || attempts[3].Duration != time.Second {
		t.Errorf("attempts: %+v", attempts)
	}
	if all := storetest.Deliveries(t, s, w.ID); len(all) != 4 || all[1].Attempts != 2 || all[1].State != events.Delivered || all[1].Error != "" {
		t.Errorf("deliveries: %+v", all)
	}
}

// TestFenceOfNewStream verifies that a claim of a deleted stream is none of a later stream with the same name.
func TestFenceOfNewStream(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	r := storetest.Target(t, s, "acme/app").Repository
	storetest.AddWebhook(t, s, "hook", nil, "acme/*")
	record(t, s, r, "0")
	stalled := claimed(t, s)
	storetest.Exec(t, s, `DELETE FROM webhook_stream`) // as Close by a later claimant
	record(t, s, r, "1")
	if _, err := s.Webhooks.Waiting(t.Context(), claimed(t, s), 1); err != nil {
		t.Fatal(err)
	}
	if err := s.Webhooks.Extend(t.Context(), stalled, lease); !errors.Is(err, webhooks.ErrFenced) {
		t.Errorf("Extend with a claim of the deleted stream: %v", err)
	}
}

// TestDueOrder verifies that the webhook that has been due longest is the first, whatever its id.
func TestDueOrder(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	r := storetest.Target(t, s, "acme/app").Repository
	first := storetest.AddWebhook(t, s, "first", nil, "acme/*")
	second := storetest.AddWebhook(t, s, "second", nil, "acme/*")
	record(t, s, r, "0")
	for _, w := range []pulp.Webhook{first, second} {
		storetest.Exec(t, s, `UPDATE webhook_stream SET due = due - 1000000 WHERE webhook_id = '`+w.ID+`'`)
		storetest.Exec(t, s, `UPDATE webhook_stream SET due = due + 1000 WHERE webhook_id <> '`+w.ID+`'`)
		due, err := s.Webhooks.Due(t.Context(), nil)
		if err != nil || len(due) == 0 || due[0].WebhookID != w.ID {
			t.Errorf("due: %v, %v; want %s first", due, err, w.ID)
		}
		storetest.Exec(t, s, `UPDATE webhook_stream SET due = 1000000`)
	}
}

// TestOrderOfConcurrentEvents records events in concurrent transactions. The numbers of the deliveries follow the commits: a reader
// never sees a number and later a lower one.
func TestOrderOfConcurrentEvents(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	r := storetest.Target(t, s, "acme/app").Repository
	w := storetest.AddWebhook(t, s, "hook", nil, "*")
	var writing sync.WaitGroup
	for i := range 4 {
		writing.Go(func() {
			for j := range 25 {
				record(t, s, r, fmt.Sprintf("%d-%d", i, j))
			}
		})
	}
	done := make(chan struct{})
	go func() { writing.Wait(); close(done) }()
	var last int64
	seen := 0
	for end := false; !end; {
		select {
		case <-done:
			end = true
		default:
		}
		c, err := s.Webhooks.Claim(t.Context(), webhooks.Key{WebhookID: w.ID, Name: r.ID}, "me", lease)
		if err != nil {
			t.Fatal(err)
		}
		if c == nil {
			continue
		}
		for {
			q := waiting(t, s, c)
			for _, d := range q.Deliveries {
				if d.Seq <= last {
					t.Fatalf("delivery %d after %d", d.Seq, last)
				}
				last, seen = d.Seq, seen+1
				if err := s.Webhooks.Delivered(t.Context(), c, attempt(c, d, ""), false, lease); err != nil {
					t.Fatal(err)
				}
			}
			closed, err := s.Webhooks.Close(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if closed {
				break
			}
		}
	}
	if seen != 100 {
		t.Errorf("%d deliveries, want 100", seen)
	}
}

// TestTrim drops the oldest deliveries beyond the backlog, gives up old ones, and reports both in their stream.
func TestTrim(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	r := storetest.Target(t, s, "acme/app").Repository
	other := storetest.Target(t, s, "acme/other").Repository
	w := storetest.AddWebhook(t, s, "hook", nil, "*")
	for i := range 7 {
		record(t, s, r, fmt.Sprint(i))
	}
	record(t, s, other, "other")
	bounds := webhooks.Bounds{Backlog: 5, Oldest: time.Now().Add(-time.Hour)}
	trim := func(want int64) {
		t.Helper()
		if n, err := s.Webhooks.Trim(t.Context(), bounds); err != nil || n[w.ID] != want {
			t.Fatalf("Trim: %v, %v; want %d", n, err, want)
		}
	}
	trim(3)
	trim(0)
	key := webhooks.Key{WebhookID: w.ID, Name: r.ID}
	c, err := s.Webhooks.Claim(t.Context(), key, "me", lease)
	if err != nil || c == nil {
		t.Fatal(c, err)
	}
	q := waiting(t, s, c)
	if len(q.Deliveries) != 4 || q.Deliveries[0].Event.Subject != "3" || q.Lost.Number != 3 || q.Lost.Seq != q.Deliveries[0].Event.Sequence-1 || q.Lost.First.After(q.Lost.Last) {
		t.Fatalf("queue: %+v", q)
	}
	var stored int
	if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM webhook_event`).Scan(&stored); err != nil || stored != 5 {
		t.Errorf("%d events, %v; want 5", stored, err)
	}
	bounds.Oldest = time.Now().Add(time.Hour)
	trim(5)
	if err := s.Webhooks.Reported(t.Context(), c, q.Lost, attempt(c, events.Delivery{}, ""), lease); err != nil {
		t.Fatal(err)
	}
	q = waiting(t, s, c)
	if len(q.Deliveries) != 0 || q.Lost.Number != 4 {
		t.Errorf("queue: %+v", q)
	}
	for _, d := range storetest.Deliveries(t, s, w.ID) {
		if d.State != "failed" || d.Error == "" {
			t.Errorf("delivery: %+v", d)
		}
	}
}

// TestPurge deletes ended deliveries with their events, and the rows of deleted webhooks.
func TestPurge(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	r := storetest.Target(t, s, "acme/app").Repository
	one, two := storetest.AddWebhook(t, s, "one", nil, "*"), storetest.AddWebhook(t, s, "two", nil, "*")
	record(t, s, r, "a")
	c, err := s.Webhooks.Claim(t.Context(), webhooks.Key{WebhookID: one.ID, Name: r.ID}, "me", lease)
	if err != nil || c == nil {
		t.Fatal(c, err)
	}
	d := waiting(t, s, c).Deliveries[0]
	if err := s.Webhooks.Delivered(t.Context(), c, attempt(c, d, ""), false, lease); err != nil {
		t.Fatal(err)
	}
	count := func(table string) (n int) {
		t.Helper()
		if err := s.DB.Read().QueryRowContext(t.Context(), `SELECT COUNT(*) FROM `+table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	purge := func(before time.Time) {
		t.Helper()
		for {
			n, err := s.Webhooks.Purge(t.Context(), before)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				return
			}
		}
	}
	purge(time.Now().Add(-time.Hour))
	if n := count("webhook_delivery"); n != 2 {
		t.Errorf("%d deliveries before the retention has ended", n)
	}
	purge(time.Now().Add(time.Hour))
	if n, e := count("webhook_delivery"), count("webhook_event"); n != 1 || e != 1 {
		t.Errorf("%d deliveries and %d events, want the waiting one", n, e)
	}
	for _, w := range []pulp.Webhook{one, two} {
		if err := s.Webhooks.DeleteWebhook(t.Context(), w.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Webhooks.DeleteWebhook(t.Context(), one.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("second deletion: %v", err)
	}
	noneDue(t, s)
	purge(time.Now().Add(-time.Hour))
	for _, table := range []string{"webhook_delivery", "webhook_event", "webhook_stream", "webhook_attempt"} {
		if n := count(table); n != 0 {
			t.Errorf("%s: %d rows", table, n)
		}
	}
}

// TestManualDeliveries requests a test event and another delivery of an event.
func TestManualDeliveries(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	r := storetest.Target(t, s, "acme/app").Repository
	w := storetest.AddWebhook(t, s, "hook", nil, "acme/*")
	record(t, s, r, "a")
	first := storetest.Deliveries(t, s, w.ID)[0]
	again, err := s.Webhooks.Redeliver(t.Context(), w.ID, first.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Webhooks.Redeliver(t.Context(), pulp.NewID(), first.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("redelivery to another webhook: %v", err)
	}
	ping, err := events.New(events.Ping, "/x/", "hook", events.PingData{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Webhooks.PutPing(t.Context(), w.ID, ping); err != nil {
		t.Fatal(err)
	}
	all := storetest.Deliveries(t, s, w.ID)
	if len(all) != 3 || all[1].ID != again || all[1].Event.ID != first.Event.ID || !all[1].Once || all[2].Event.Type != events.Ping {
		t.Errorf("deliveries: %+v", all)
	}
	if _, err := s.Webhooks.Trim(t.Context(), webhooks.Bounds{Backlog: 0, Oldest: time.Now().Add(-time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if all := storetest.Deliveries(t, s, w.ID); len(all) != 2 {
		t.Errorf("deliveries after trimming: %+v", all)
	}
}

// TestLimits creates too many webhooks, and one with the name of another.
func TestLimits(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t)
	u := storetest.User(t, s, "alice")
	own := func(w *pulp.Webhook) { w.OwnerID = u.ID }
	w := storetest.AddWebhook(t, s, "0", own, "acme/*")
	_, err := s.Webhooks.CreateWebhook(t.Context(), w)
	if e, ok := errors.AsType[*fault.Error](err); !ok || e.Fields["name"] == nil {
		t.Errorf("a taken name: %v", err)
	}
	for i := 1; i < 100; i++ {
		storetest.AddWebhook(t, s, fmt.Sprint(i), own, "acme/*")
	}
	w.Name = "too many"
	if _, err := s.Webhooks.CreateWebhook(t.Context(), w); !fault.Is(err, fault.Invalid) {
		t.Errorf("the webhook 101: %v", err)
	}
	if err := s.Accounts.DeleteUser(t.Context(), u.ID, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Webhooks.Webhook(t.Context(), w.ID); err != nil || got.OwnerID != 0 || got.Owner != "" {
		t.Errorf("webhook of a deleted account: %+v, %v", got, err)
	}
}
