package audit

import (
	"log/slog"
	"sync"
	"time"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/clientaddr"
)

// Bounds of entries about actions that were denied or failed.
const (
	// Window is the time within which equal ones are one entry and the count of the others.
	Window = time.Minute
	// maxOfSource is the number of different ones of one account, or of one network without an account, in a window.
	maxOfSource = 30
	// maxUnknown and maxKnown are the numbers of all networks and of all accounts.
	maxUnknown, maxKnown = 300, 3000
)

// several replaces action and object in the entry that counts the refusals beyond a bound.
const several = "several"

// subject holds the fields that equal entries have in common.
type subject struct {
	actor  actor.Actor
	action string
	object string
	result Result
	status int
}

// source is an account, or a network without an account.
type source struct {
	kind    actor.Kind
	account int64
	name    string
	network string
}

// repeat counts the entries about one subject after the first one.
type repeat struct {
	subject     subject
	source      source
	ends        time.Time
	count       int64
	first, last time.Time
}

// repeats reduces equal entries. The first one of a window passes, the others are counted until the window ends. The
// number of subjects is bounded: beyond it, entries are counted for their source, and beyond that for all sources.
type repeats struct {
	write func(Entry, []slog.Attr) // receives the counts of windows that end without another entry

	mu       sync.Mutex
	open     map[subject]*repeat
	order    []*repeat // in the order of their ends
	ofSource map[source]int
	known    int // subjects of accounts
	unknown  int // other subjects
	timer    *time.Timer
}

// decision is the result of admit.
type decision struct {
	entry   Entry
	details []slog.Attr
	now     bool    // write entry; otherwise it was counted
	ended   []Entry // counts of windows that have ended, to be written too
}

// admit decides whether an entry is written now or counted.
func (r *repeats) admit(e Entry, details []slog.Attr) decision {
	from := sourceOf(e.Actor)
	r.mu.Lock()
	defer r.mu.Unlock()
	d := decision{entry: e, details: details, ended: r.expire(e.At)}
	subjects := []subject{
		{e.Actor, e.Action, e.Object, e.Result, e.Status},
		{from.actor(), several, several, e.Result, 0},
		{source{kind: from.kind}.actor(), several, several, e.Result, 0},
	}
	for i, s := range subjects {
		if open := r.open[s]; open != nil {
			open.add(e.At)
			return d
		}
		last := i == len(subjects)-1
		if i == 0 && !r.room(from) || !last && !r.roomForAll(from) {
			continue
		}
		r.add(s, from, e.At)
		if i > 0 {
			d.entry.Actor, d.entry.Action, d.entry.Object, d.entry.Status, d.details = s.actor, several, several, 0, nil
		}
		break
	}
	d.now = true
	return d
}

// add counts an entry.
func (r *repeat) add(at time.Time) {
	if r.count == 0 {
		r.first = at
	}
	r.count++
	r.last = at
}

// sourceOf returns the source of an actor's entries.
func sourceOf(a actor.Actor) source {
	if a.Authenticated() {
		return source{kind: a.Kind, account: a.ID, name: a.Name}
	}
	network := clientaddr.Network(a.Address)
	if !network.IsValid() {
		return source{kind: actor.Anonymous, network: a.Address + " "} // not the source of all networks
	}
	return source{kind: actor.Anonymous, network: network.String()}
}

// actor returns the actor of entries about a source.
func (s source) actor() actor.Actor {
	switch {
	case s.network != "":
		return actor.Actor{Name: actor.AnonymousName, Kind: s.kind, Address: s.network}
	case s.name != "":
		return actor.Actor{ID: s.account, Name: s.name, Kind: s.kind}
	}
	return actor.Actor{Name: several, Kind: s.kind}
}

// room reports whether a source may have another subject.
func (r *repeats) room(from source) bool { return r.ofSource[from] < maxOfSource }

// roomForAll reports whether there may be another subject of an account, or of a network.
func (r *repeats) roomForAll(from source) bool {
	if from.kind == actor.Anonymous {
		return r.unknown < maxUnknown
	}
	return r.known < maxKnown
}

// add opens a window for a subject.
func (r *repeats) add(s subject, from source, now time.Time) {
	if r.open == nil {
		r.open, r.ofSource = map[subject]*repeat{}, map[source]int{}
	}
	opened := &repeat{subject: s, source: from, ends: now.Add(Window)}
	r.open[s] = opened
	r.order = append(r.order, opened)
	r.count(from, 1)
	if r.timer == nil {
		r.timer = time.AfterFunc(Window, r.tick)
	}
}

// count adds n to the numbers of open windows.
func (r *repeats) count(from source, n int) {
	if r.ofSource[from] += n; r.ofSource[from] == 0 {
		delete(r.ofSource, from)
	}
	if from.kind == actor.Anonymous {
		r.unknown += n
	} else {
		r.known += n
	}
}

// tick ends the windows whose time has come, and sets the timer for the next one.
func (r *repeats) tick() {
	r.mu.Lock()
	ended := r.expire(time.Now())
	r.timer = nil
	if len(r.order) > 0 {
		r.timer = time.AfterFunc(time.Until(r.order[0].ends), r.tick)
	}
	r.mu.Unlock()
	r.writeAll(ended)
}

// flush ends all windows.
func (r *repeats) flush() {
	r.mu.Lock()
	ended := r.expire(time.Now().Add(2 * Window))
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	r.mu.Unlock()
	r.writeAll(ended)
}

// writeAll writes counts. The caller does not hold mu, because writing may wait.
func (r *repeats) writeAll(ended []Entry) {
	for _, e := range ended {
		r.write(e, nil)
	}
}

// expire removes the windows that end until now, and returns the counts to write.
func (r *repeats) expire(now time.Time) (ended []Entry) {
	for len(r.order) > 0 && !r.order[0].ends.After(now) {
		w := r.order[0]
		r.order = r.order[1:]
		delete(r.open, w.subject)
		r.count(w.source, -1)
		if w.count == 0 {
			continue
		}
		s := w.subject
		ended = append(ended, Entry{
			At: w.last, Actor: s.actor, Action: s.action, Object: s.object, Result: s.result, Status: s.status, Count: w.count,
			Details: encodeDetails([]slog.Attr{slog.String("first", w.first.Format(timeForm)), slog.String("last", w.last.Format(timeForm))}),
		})
	}
	return ended
}
