package webhook_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/accounts"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/sqldb"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/webhook"
)

// receiver is a receiver of events that verifies their signatures.
type receiver struct {
	*httptest.Server
	t      *testing.T
	secret string // of the webhook; empty: signatures are not verified

	mu     sync.Mutex
	answer func(http.ResponseWriter, *http.Request) bool // answers instead of 204; false: it did not
	got    []received
}

type received struct {
	ID, Type, Subject, Source, Sequence string
	Data                                json.RawMessage
	header                              http.Header
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{t: t}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	r.mu.Lock()
	answer := r.answer
	r.mu.Unlock()
	if answer != nil && answer(w, req) {
		return
	}
	got := received{header: req.Header}
	if err := json.Unmarshal(body, &got); err != nil {
		r.t.Errorf("body %q: %v", body, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.secret != "" {
		var seconds int64
		_, _ = fmt.Sscan(req.Header.Get("webhook-timestamp"), &seconds)
		want, err := events.Sign(req.Header.Get("webhook-id"), time.Unix(seconds, 0), body, r.secret)
		if signature := req.Header.Get("webhook-signature"); err != nil || signature != want || time.Since(time.Unix(seconds, 0)) > time.Minute {
			r.t.Errorf("signature %q, want %q (%v)", signature, want, err)
		}
	}
	r.got = append(r.got, got)
	w.WriteHeader(http.StatusNoContent)
}

func (r *receiver) answerWith(answer func(http.ResponseWriter, *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *receiver) subjects() (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.got {
		all = append(all, g.Subject)
	}
	return all
}

// world is a store with a dispatcher.
type world struct {
	*testing.T
	store *store.Store
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t, storetest.Open(t)}
}

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// run runs a dispatcher until the test or the returned function ends it.
func (w *world) run(allow []netip.Prefix, edit func(*webhook.Options)) (stop func()) {
	w.Helper()
	timeout := 2 * time.Second
	o := webhook.Options{
		Store: w.store, Log: slog.New(slog.DiscardHandler), Name: "test", Parallel: 8, Timeout: timeout, Backlog: 1000, RetryFor: time.Hour,
		Access: webhook.Access{
			Decider: w.store.Accounts.NewDecider(nil), Confirm: func(_ context.Context, u pulp.User) (pulp.User, error) { return u, nil },
		},
		Sender: webhook.NewSender(allow, timeout, "https://registry.example", "countersign/test"),
	}
	if edit != nil {
		edit(&o)
	}
	ctx, cancel := context.WithCancel(w.Context())
	var running sync.WaitGroup
	running.Go(func() { webhook.New(o).Run(ctx) })
	stop = func() { cancel(); running.Wait() }
	w.Cleanup(stop)
	return stop
}

func (w *world) hook(name, url string, edit func(*pulp.Webhook), patterns ...string) pulp.Webhook {
	w.Helper()
	return storetest.AddWebhook(w.T, w.store, name, func(h *pulp.Webhook) {
		h.URL, h.EventTypes = url, []string{string(events.Push)}
		if edit != nil {
			edit(h)
		}
	}, patterns...)
}

func (w *world) until(condition string, f func() bool) {
	w.Helper()
	eventually.True(w.T, 20*time.Second, f, "%s", condition)
}

// TestDelivery delivers signed events in order, also after failures, and lists the attempts.
func TestDelivery(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newReceiver(t)
	h := w.hook("hook", r.URL+"/x?y=z", func(h *pulp.Webhook) {
		h.Headers = map[string]string{"Authorization": "Bearer mine", "Content-Type": "text/plain"}
	}, "acme/*")
	r.secret = h.Secret
	failures := 2
	r.answerWith(func(rw http.ResponseWriter, _ *http.Request) bool {
		if failures--; failures < 0 {
			return false
		}
		rw.WriteHeader(http.StatusInternalServerError)
		return true
	})
	w.run(loopback, nil)
	repo := storetest.Target(t, w.store, "acme/app").Repository
	want := []string{}
	for i := range 5 {
		tag := fmt.Sprint("v", i)
		storetest.PushImage(t, w.store, repo.ID, tag, tag)
		want = append(want, "acme/app:"+tag)
	}
	w.until("all events arrive", func() bool { return len(r.subjects()) == 5 })
	if got := r.subjects(); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("events: %v, want %v", got, want)
	}
	first := r.got[0]
	for name, value := range map[string]string{
		"Content-Type": "application/cloudevents+json; charset=utf-8", "Authorization": "Bearer mine", "Webhook-Id": first.ID, "User-Agent": "countersign/test",
	} {
		if got := first.header.Get(name); got != value {
			t.Errorf("%s: %q, want %q", name, got, value)
		}
	}
	if first.Source != "https://registry.example"+pulp.RepositoryHref(repo.Type, repo.ID) || first.Sequence >= r.got[1].Sequence {
		t.Errorf("event: %+v", first)
	}
	w.until("the attempts are recorded", func() bool {
		all, _, err := w.store.Lists.Attempts(t.Context(), list.Query{Limit: 20})
		return err == nil && len(all) == 7 && all[6].Status == 500 && strings.Contains(all[6].Error, "500") && all[0].Error == "" && all[6].EventID == all[4].EventID
	})
	if h, err := w.store.Webhooks.Webhook(t.Context(), h.ID); err != nil || h.Backlog != 0 || h.FailingSince != nil {
		t.Errorf("webhook: %+v, %v", h, err)
	}
}

// TestReceiversThatFail sends to receivers that do not accept events. Another receiver gets its events meanwhile.
func TestReceiversThatFail(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := newReceiver(t)
	slow, redirecting, huge, down, secure := newReceiver(t), newReceiver(t), newReceiver(t), newReceiver(t), httptest.NewTLSServer(good)
	t.Cleanup(secure.Close)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	slow.answerWith(func(rw http.ResponseWriter, req *http.Request) bool {
		select {
		case <-release:
		case <-req.Context().Done():
		}
		return true
	})
	redirecting.answerWith(func(rw http.ResponseWriter, req *http.Request) bool {
		http.Redirect(rw, req, good.URL, http.StatusTemporaryRedirect)
		return true
	})
	huge.answerWith(func(rw http.ResponseWriter, _ *http.Request) bool {
		for range 1000 {
			if _, err := rw.Write(make([]byte, 1<<20)); err != nil {
				return true
			}
		}
		t.Error("a response of a gigabyte was read")
		return true
	})
	down.Close()
	all := map[string]string{}
	for name, url := range map[string]string{"slow": slow.URL, "redirecting": redirecting.URL, "huge": huge.URL, "down": down.URL, "tls": secure.URL} {
		all[name] = w.hook(name, url, nil, "*").ID
	}
	w.hook("good", good.URL, nil, "*")
	w.run(loopback, nil)
	repo := storetest.Target(t, w.store, "acme/app").Repository
	storetest.PushImage(t, w.store, repo.ID, "x", "v1")
	w.until("the good receiver has the event", func() bool { return len(good.subjects()) == 1 })
	for name, want := range map[string]string{
		"slow": "did not answer within", "redirecting": "Redirects are not followed", "huge": "", "down": "connection refused", "tls": "certificate",
	} {
		w.until(name+" has an attempt", func() bool {
			d := storetest.Deliveries(t, w.store, all[name])
			return len(d) == 1 && d[0].Attempts > 0 && strings.Contains(d[0].Error, want) && (want == "") == (d[0].State == events.Delivered)
		})
	}
	if n := len(good.subjects()); n != 1 {
		t.Errorf("the good receiver got %d events, want 1: a redirect was followed", n)
	}
}

// TestPrivateAddress refuses a receiver on an address that is not allowed.
func TestPrivateAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newReceiver(t)
	h := w.hook("hook", strings.Replace(r.URL, "127.0.0.1", "localhost", 1), nil, "*")
	w.run(nil, nil)
	repo := storetest.Target(t, w.store, "acme/app").Repository
	storetest.PushImage(t, w.store, repo.ID, "x", "v1")
	w.until("the attempt fails", func() bool {
		d := storetest.Deliveries(t, w.store, h.ID)
		return len(d) == 1 && strings.Contains(d[0].Error, "webhooks.allow_private_addresses")
	})
	if len(r.subjects()) > 0 {
		t.Error("the receiver got an event")
	}
}

// TestPermissions delivers events about repositories that the owner may view, until the owner may not.
func TestPermissions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newReceiver(t)
	alice := storetest.User(t, w.store, "alice")
	own, other := storetest.Target(t, w.store, "acme/app").Repository, storetest.Target(t, w.store, "acme/other").Repository
	storetest.Exec(t, w.store, `UPDATE distribution SET private = TRUE`)
	role := "container.containerrepository_viewer"
	key := "repository:" + own.ID
	if err := w.store.DB.InTx(t.Context(), func(x *sqldb.Tx) error { return accounts.Assign(x, alice.ID, role, key) }); err != nil {
		t.Fatal(err)
	}
	h := w.hook("hook", r.URL, func(h *pulp.Webhook) { h.OwnerID = alice.ID }, "*")
	w.run(loopback, nil)
	gone := func() bool {
		for _, d := range storetest.Deliveries(t, w.store, h.ID) {
			if d.State == events.Waiting {
				return false
			}
		}
		return true
	}
	storetest.PushImage(t, w.store, other.ID, "x", "v1")
	storetest.PushImage(t, w.store, own.ID, "x", "v1")
	w.until("the event of the own repository arrives", func() bool { return len(r.subjects()) == 1 })
	w.until("no event waits", gone)
	if all := storetest.Deliveries(t, w.store, h.ID); len(all) != 1 {
		t.Errorf("deliveries: %+v", all)
	}
	if err := w.store.Accounts.RevokeRole(t.Context(), role, key, accounts.Assignee{Account: alice.ID}); err != nil {
		t.Fatal(err)
	}
	storetest.PushImage(t, w.store, own.ID, "y", "v2")
	w.until("no event waits", gone)
	if err := w.store.Accounts.DeleteUser(t.Context(), alice.ID, nil); err != nil {
		t.Fatal(err)
	}
	storetest.PushImage(t, w.store, own.ID, "z", "v3")
	w.until("no event waits", gone)
	if got := r.subjects(); len(got) != 1 || got[0] != "acme/app:v1" {
		t.Errorf("events: %v", got)
	}
}

// TestLostEvents reports dropped events before the remaining ones.
func TestLostEvents(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := newReceiver(t)
	w.hook("hook", r.URL, nil, "*")
	repo := storetest.Target(t, w.store, "acme/app").Repository
	for i := range 5 {
		storetest.PushImage(t, w.store, repo.ID, fmt.Sprint(i), fmt.Sprint("v", i))
	}
	r.answerWith(func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	w.run(loopback, func(o *webhook.Options) { o.Backlog = 2 })
	w.until("events are dropped", func() bool {
		return len(storetest.Deliveries(t, w.store, must(w.store.Lists.Webhooks(t.Context(), list.Query{Limit: 1}))[0].ID)) == 2
	})
	r.answerWith(nil)
	w.until("the others arrive", func() bool { return len(r.subjects()) == 3 })
	var lost events.LostData
	if err := json.Unmarshal(r.got[0].Data, &lost); err != nil || lost.Lost != 3 || r.got[0].Type != string(events.Lost) || lost.Repository.Name != "acme/app" ||
		r.got[0].Sequence >= r.got[1].Sequence {
		t.Errorf("first event: %s %s, %v", r.got[0].Type, r.got[0].Data, err)
	}
	if got := r.subjects()[1:]; got[0] != "acme/app:v3" || got[1] != "acme/app:v4" {
		t.Errorf("events: %v", got)
	}
}

func must(all []pulp.Webhook, _ int64, err error) []pulp.Webhook {
	if err != nil {
		panic(err)
	}
	return all
}

// TestTwoDispatchers delivers the events of two processes' worth of dispatchers once each, in order.
func TestTwoDispatchers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if !w.store.DB.IsPostgres() {
		t.Skip("a SQLite database belongs to one process")
	}
	r := newReceiver(t)
	w.hook("hook", r.URL, nil, "*")
	w.run(loopback, func(o *webhook.Options) { o.Name = "one" })
	stop := w.run(loopback, func(o *webhook.Options) { o.Name = "two" })
	var pushing sync.WaitGroup
	for i := range 3 {
		pushing.Go(func() {
			repo := storetest.Target(t, w.store, fmt.Sprint("acme/app", i)).Repository
			for j := range 10 {
				storetest.PushImage(t, w.store, repo.ID, fmt.Sprint(j), fmt.Sprintf("v%02d", j))
			}
		})
	}
	w.until("some events arrive", func() bool { return len(r.subjects()) > 5 })
	stop()
	pushing.Wait()
	w.until("all events arrive", func() bool { return len(r.subjects()) >= 30 })
	last := map[string]string{}
	for _, s := range r.subjects() {
		name, tag, _ := strings.Cut(s, ":")
		if tag <= last[name] {
			t.Errorf("%s after %s", s, last[name])
		}
		last[name] = tag
	}
}
