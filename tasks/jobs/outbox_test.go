package jobs_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/adopt"
	"github.com/countersign/countersign/internal/eventually"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/ingest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store/upstreamstate"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/tasks/jobs"
)

// shelf is an upstream with tags in memory that a test can make fail.
type shelf struct {
	storage.Manifests
	storage.Storage
	mu   sync.Mutex
	tags map[string]string
	fail error
	// breaks is a tag whose write makes the upstream unavailable until the time in until.
	breaks string
	until  time.Time
	failed map[string]int // failed writes, by tag
}

// down returns the error of requests, or nil. The caller holds mu.
func (s *shelf) down() error {
	if s.fail == nil && time.Now().Before(s.until) {
		return fault.NewOutage(fault.Upstream, nil, "down")
	}
	return s.fail
}

func (s *shelf) PutManifest(_ context.Context, name, reference, _ string, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if reference == s.breaks {
		s.until = time.Now().Add(time.Second)
	}
	if err := s.down(); err != nil {
		s.failed[reference]++
		return err
	}
	s.tags[name+":"+reference] = string(digest.FromBytes(payload))
	return nil
}

func (s *shelf) DeleteManifest(_ context.Context, name, reference string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail == nil {
		delete(s.tags, name+":"+reference)
	} else {
		s.failed[reference]++
	}
	return s.fail
}

func (s *shelf) Resolve(_ context.Context, name, reference string, _ ...string) (digest.Digest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, held := s.tags[name+":"+reference]
	if !held {
		return "", storage.ErrNotFound
	}
	return digest.Digest(d), s.fail
}

func (s *shelf) Tags(_ context.Context, name string) (tags []string, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range slices.Sorted(maps.Keys(s.tags)) {
		if tag, ok := strings.CutPrefix(of, name+":"); ok {
			tags = append(tags, tag)
		}
	}
	return tags, s.fail
}

func (s *shelf) Ping(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down()
}

func (s *shelf) holds(tag string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tags[tag]
}

// arrive sets a tag as a late write does. An empty digest deletes it.
func (s *shelf) arrive(tag string, d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if delete(s.tags, tag); d != "" {
		s.tags[tag] = string(d)
	}
}

func (s *shelf) failures(tag string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed[tag]
}

func (s *shelf) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// fronted is a world with a shelf as its upstream.
type fronted struct {
	*world
	up      *shelf
	adopter *adopt.Adopter
}

// front runs an outbox for a shelf until the test ends.
func (w *world) front(log *slog.Logger, keep bool) fronted {
	w.Helper()
	w.store.Content.EnableOutbox()
	up := &shelf{tags: map[string]string{}, failed: map[string]int{}}
	f := fronted{w, up, &adopt.Adopter{
		Store: w.store, Upstream: up, Blobs: ingest.Blobs{Storage: up, Foreign: true},
		SignOnPush: w.signOnPush, Log: log, Pin: keep,
	}}
	ctx, stop := context.WithCancel(w.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		jobs.Outbox{Store: w.store, Upstream: up, Log: log, Adopter: f.adopter}.Run(ctx)
	}()
	w.Cleanup(func() { stop(); <-done })
	return f
}

func (f fronted) eventually(description string, is func() bool) {
	f.Helper()
	eventually.True(f, time.Minute, is, "%s", description)
}

func (f fronted) shows(description, tag string, want digest.Digest) {
	f.Helper()
	f.eventually(description, func() bool { return f.up.holds("acme/app:"+tag) == string(want) })
}

// tag returns the state of a tag.
func (f fronted) tag(name string) upstreamstate.UpstreamTag {
	f.Helper()
	tags, err := f.store.Upstream.UpstreamTags(f.Context(), f.repo.Repository.ID)
	if err != nil {
		f.Fatal(err)
	}
	return tags[name]
}

func (f fronted) untag(name string) {
	f.Helper()
	if _, err := f.store.Content.DeleteTag(f.Context(), f.repo.Repository.ID, name, nil); err != nil {
		f.Fatal(err)
	}
}

// givenUp makes a change during an outage of the upstream and waits until the outbox has tried to write it.
func (f fronted) givenUp(name string, change func()) {
	f.Helper()
	f.up.set(fault.NewOutage(fault.Upstream, nil, "down"))
	before := f.up.failures(name)
	change()
	f.eventually(name+" is tried", func() bool { return f.up.failures(name) > before })
}

func TestOutbox(t *testing.T) {
	t.Parallel()
	f := newWorld(t).front(slog.New(slog.DiscardHandler), false)
	f.shows("a push", "a", f.push("first", "a"))
	f.shows("a move", "a", f.push("second", "a"))
	f.up.set(fault.New(fault.Unavailable, "down"))
	late := f.push("third", "a")
	f.push("fourth", "b")
	f.untag("b")
	f.up.set(nil)
	f.shows("after a failure", "a", late)
	f.shows("a tag that is gone", "b", "")
}

// counter counts warnings.
type counter struct {
	slog.Handler
	warned atomic.Int64
}

func (*counter) Enabled(context.Context, slog.Level) bool { return true }

func (c *counter) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelWarn {
		c.warned.Add(1)
	}
	return nil
}

// TestOutboxDuringAnOutage moves tags during an outage, with and without hidden tags for their old images. It
// expects few warnings, and that all tags are written soon after the outage.
func TestOutboxDuringAnOutage(t *testing.T) {
	t.Parallel()
	for name, keep := range map[string]bool{"with hidden tags": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &counter{Handler: slog.DiscardHandler}
			f := newWorld(t).front(slog.New(log), keep)
			older := f.push("first", "a")
			f.shows("a push", "a", older)
			f.up.set(fault.NewOutage(fault.Upstream, nil, "down"))
			newer := f.push("second", "a")
			for i := range 10 {
				f.push("second", fmt.Sprintf("another-%d", i))
			}
			time.Sleep(3 * time.Second)
			if n := log.warned.Load(); n < 1 || n > 2 {
				t.Errorf("%d warnings in three seconds of an outage, want 1 or 2", n)
			}
			f.up.set(nil)
			f.shows("the tag", "a", newer)
			f.shows("the last tag", "another-9", newer)
			if keep {
				f.shows("the older image", pulp.PinTag(older), older)
			}
		})
	}
}

// TestTagThatBreaksTheUpstream expects that a tag whose writes make the upstream unavailable is retried, and
// that other tags are written meanwhile.
func TestTagThatBreaksTheUpstream(t *testing.T) {
	t.Parallel()
	f := newWorld(t).front(slog.New(slog.DiscardHandler), false)
	f.up.mu.Lock()
	f.up.breaks = "bad"
	f.up.mu.Unlock()
	image := f.push("first", "bad")
	for i := range 8 {
		f.push("first", fmt.Sprint("good-", i))
	}
	f.eventually("the bad one is tried", func() bool { return f.up.failures("bad") > 0 })
	for i := range 8 {
		f.shows("another tag", fmt.Sprint("good-", i), image)
	}
	if got := f.tag("bad").Attempts; got != 0 {
		t.Errorf("an outage of the upstream counts as %d refusals", got)
	}
}

// TestLateWritesAreCorrected lets a write arrive upstream that had failed during an outage and was followed by
// a newer one. The next comparison must write the newer state again, and must not adopt the older one.
func TestLateWritesAreCorrected(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		written, givenUp, then string // images of the tag in turn; empty: the tag is deleted
		note                   string
	}{
		"a push, after the deletion": {
			givenUp: "one",
			note:    "It was deleted here, and an older write of ours arrived late; it is deleted again.",
		},
		"a deletion, after the next push": {
			written: "one", then: "two",
			note: "Our own deletion of it arrived late; it is written again.",
		},
		"a push, after the next one": {
			written: "one", givenUp: "two", then: "three",
			note: "An older write of ours arrived late; it is written again.",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newWorld(t).front(slog.New(slog.DiscardHandler), false)
			change := func(to string) (d digest.Digest) {
				if to != "" {
					return f.push(to, "moving")
				}
				if f.tag("moving").Here != "" {
					f.untag("moving")
				}
				return ""
			}
			f.shows("the first", "moving", change(c.written))
			var late digest.Digest
			f.givenUp("moving", func() { late = change(c.givenUp) })
			want := change(c.then)
			f.up.set(nil)
			f.eventually("the outbox is empty", func() bool { return !f.tag("moving").Dirty })
			f.shows("the last", "moving", want)
			f.up.arrive("acme/app:moving", late)
			found, err := f.adopter.Compare(t.Context(), signservice.Caller{User: "comparison"}, f.repo.Repository, adopt.CompareOptions{Follow: true})
			if err != nil || found.Version != nil {
				t.Fatalf("the comparison made %+v, %v", found.Version, err)
			}
			if !slices.ContainsFunc(found.Drift, func(d upstreamstate.Drift) bool { return d.Name == "moving" && d.Note == c.note }) {
				t.Errorf("the comparison found %+v, want %q", found.Drift, c.note)
			}
			f.shows("after the comparison", "moving", want)
			if got := f.tag("moving").Here; got != want {
				t.Errorf("the tag is %s here, want %s", got, want)
			}
		})
	}
}
