package identity

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/accounts"
)

const (
	// maxConfirmed is the number of accounts whose latest confirmations are in memory. The least recently used are
	// evicted.
	maxConfirmed = 50_000
	// removedLife is the time after which a source is asked again about a person whom it does not have.
	removedLife = 10 * time.Second
	// outagePause is the time for which a source that did not answer is not asked to confirm accounts.
	outagePause = 10 * time.Second
	// sweepInterval, sweepAge and sweepLimit control the confirmation of accounts that are not in use.
	sweepInterval = time.Minute
	sweepAge      = time.Hour // of the latest confirmation
	sweepLimit    = 20        // accounts of a source in each interval
)

// Confirmed is a source with the validity of its confirmations.
type Confirmed struct {
	Source
	// Recheck is the age of a confirmation after which the source is asked again.
	Recheck time.Duration
	// MaxOutage is the age up to which a confirmation is valid while the source does not answer.
	MaxOutage time.Duration
}

// PeopleOptions are the parts of People.
type PeopleOptions struct {
	Accounts *accounts.Store
	Sources  []Confirmed // in the order in which they are asked
	// Reserved are names that only accounts of the server have, even while there is none with the name.
	Reserved []string
	Log      *slog.Logger
	Audit    *audit.Log // nil: the log
}

// People stores accounts for the people of sources and keeps them confirmed. It is safe for concurrent use.
type People struct {
	o     PeopleOptions
	audit *audit.Log
	now   func() time.Time

	asking    singleflight.Group           // by account id
	confirmed *lru.Cache[int64, confirmed] // the latest answers to this process

	mu      sync.Mutex
	outages map[string]outage // by source
}

// confirmed is the answer of a source about an account.
type confirmed struct {
	at      time.Time
	removed bool
}

// outage is the latest failure of a source.
type outage struct {
	at  time.Time
	err error
}

// NewPeople returns a People.
func NewPeople(o PeopleOptions) *People {
	cache, err := lru.New[int64, confirmed](maxConfirmed)
	if err != nil { // the size is a positive constant
		panic(err)
	}
	return &People{o: o, audit: audit.Or(o.Audit, o.Log), now: time.Now, confirmed: cache, outages: map[string]outage{}}
}

// Authenticate returns the active account of the person with a name and a password, and creates or updates it. It asks
// the sources in their order until one has the person; source restricts it to one of them. The error is
// Unauthenticated, also if the name belongs to an account of another kind or source, or Unavailable if a source cannot
// answer.
func (p *People) Authenticate(ctx context.Context, source, name, password string) (pulp.User, error) {
	for _, s := range p.o.Sources {
		if source != "" && s.Name() != source {
			continue
		}
		person, err := s.Authenticate(ctx, name, password)
		switch {
		case errors.Is(err, ErrUnknown):
			continue
		case err != nil:
			return pulp.User{}, err
		}
		return p.loggedIn(ctx, s, person)
	}
	return pulp.User{}, ErrUnknown
}

// LoggedIn returns the active account of a person whom a source has authenticated in another way than by a password,
// and creates or updates it. The error is that of Authenticate, or Unauthenticated if the source is not configured.
func (p *People) LoggedIn(ctx context.Context, source string, person Person) (pulp.User, error) {
	s, ok := p.source(source)
	if !ok {
		return pulp.User{}, ErrUnknown
	}
	return p.loggedIn(ctx, s, person)
}

func (p *People) loggedIn(ctx context.Context, s Confirmed, person Person) (pulp.User, error) {
	u, err := p.put(ctx, s, 0, person)
	if fault.Is(err, fault.Conflict) {
		p.o.Log.WarnContext(ctx, "a person cannot log in", slog.String("source", s.Name()),
			slog.String("name", person.Name), slog.Any("reason", err))
		return pulp.User{}, ErrPassword
	}
	if err == nil && !u.Active {
		err = ErrPassword
	}
	return u, err
}

// Confirm returns an account as its source confirms it, with Active false if the source no longer has the person, or no
// such source is configured. It asks the source if the latest confirmation is older than Recheck. Accounts without a
// source are returned as they are. The error is Unavailable if the source cannot answer and the latest confirmation is
// older than MaxOutage.
func (p *People) Confirm(ctx context.Context, u pulp.User) (pulp.User, error) {
	if u.Kind != pulp.ExternalUser {
		return u, nil
	}
	s, ok := p.source(u.Source)
	if !ok || !u.Active && !u.Checked.IsZero() { // disabled by an administrator
		u.Active = false
		return u, nil
	}
	now, last := p.now(), u.Checked
	if known, ok := p.confirmed.Get(u.ID); ok {
		switch {
		case known.removed && now.Sub(known.at) < removedLife && !u.Checked.After(known.at):
			u.Active = false
			return u, nil
		case !known.removed && !u.Checked.IsZero() && known.at.After(last):
			last = known.at
		}
	}
	if !last.IsZero() && now.Sub(last) < s.Recheck {
		return u, nil
	}
	renewed, err := p.renewOnce(ctx, s, u)
	switch {
	case err == nil:
		return renewed, nil
	case !fault.Is(err, fault.Unavailable) || last.IsZero() || now.Sub(last) >= s.MaxOutage:
		return pulp.User{}, err
	}
	return u, nil
}

func (p *People) source(name string) (Confirmed, bool) {
	for _, s := range p.o.Sources {
		if s.Name() == name {
			return s, true
		}
	}
	return Confirmed{}, false
}

// Run confirms accounts that nobody uses, so that lists show which people have left, until ctx ends. Access does not
// depend on it.
func (p *People) Run(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := p.sweep(ctx); err != nil && ctx.Err() == nil {
				p.o.Log.WarnContext(ctx, "cannot confirm accounts that are not in use", slog.Any("err", err))
			}
		}
	}
}

// sweep confirms the accounts with the oldest confirmations.
func (p *People) sweep(ctx context.Context) error {
	for _, s := range p.o.Sources {
		stale, err := p.o.Accounts.StaleExternal(ctx, s.Name(), p.now().Add(-max(sweepAge, s.Recheck)), sweepLimit)
		if err != nil {
			return err
		}
		for _, u := range stale {
			if _, err := p.Confirm(ctx, u); fault.Is(err, fault.Unavailable) {
				break // the source is away; it was logged
			} else if err != nil {
				return err
			}
		}
	}
	return nil
}

// renewOnce is renew for callers that ask about the same account at the same time.
func (p *People) renewOnce(ctx context.Context, s Confirmed, u pulp.User) (pulp.User, error) {
	results := p.asking.DoChan(strconv.FormatInt(u.ID, 10), func() (any, error) {
		return p.renew(context.WithoutCancel(ctx), s, u)
	})
	select {
	case r := <-results:
		if r.Err != nil {
			return pulp.User{}, r.Err
		}
		return r.Val.(pulp.User), nil
	case <-ctx.Done():
		return pulp.User{}, context.Cause(ctx)
	}
}

// renew asks the source about an account and stores the answer.
func (p *People) renew(ctx context.Context, s Confirmed, u pulp.User) (pulp.User, error) {
	if err := p.paused(s); err != nil {
		return u, err
	}
	person, err := s.Confirm(ctx, u.Username)
	if err != nil && !errors.Is(err, ErrUnknown) {
		p.note(ctx, s, err)
		return u, err
	}
	if err == nil {
		confirmed, err := p.put(ctx, s, u.ID, person)
		if !fault.Is(err, fault.Conflict) && !fault.Is(err, fault.NotFound) {
			return confirmed, err
		} // the name belongs to another person now
	}
	u.Active, u.Checked = false, time.Time{}
	p.confirmed.Add(u.ID, confirmed{at: p.now(), removed: true})
	change, err := p.o.Accounts.RemoveExternal(ctx, u.ID)
	p.record(ctx, s, change, u)
	return u, err
}

// put stores the account of a person whom a source has confirmed.
func (p *People) put(ctx context.Context, s Confirmed, id int64, person Person) (pulp.User, error) {
	if slices.Contains(p.o.Reserved, person.Name) {
		return pulp.User{}, fault.New(fault.Conflict, "The name is reserved for an account of this server.")
	}
	at := p.now()
	u, change, err := p.o.Accounts.PutExternal(ctx, id, accounts.External{
		Source: s.Name(), ID: person.ID, Name: person.Name, FirstName: person.First, LastName: person.Last,
		Email: person.Mail, Staff: person.Admin, Groups: person.Groups,
	})
	if err != nil {
		return pulp.User{}, err
	}
	p.confirmed.Add(u.ID, confirmed{at: at})
	p.record(ctx, s, change, u,
		slog.Bool("administrator", person.Admin), slog.Any("groups", append([]string{}, person.Groups...)))
	return u, nil
}

// record writes the audit entry of a change of an account. The server makes it, because the source says so.
func (p *People) record(ctx context.Context, s Confirmed, change accounts.Change, u pulp.User, details ...slog.Attr) {
	if change == accounts.Unchanged {
		return
	}
	by := actor.BySystem()
	by.Identity = s.Name()
	entry := audit.Entry{Actor: by, Action: string(change) + " user", Object: u.Username, Result: audit.Done}
	p.audit.Record(ctx, entry, details...)
}

// paused returns the error of a source that did not answer a short time ago.
func (p *People) paused(s Confirmed) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last, ok := p.outages[s.Name()]; ok && p.now().Sub(last.at) < outagePause {
		return last.err
	}
	return nil
}

// note records and logs that a source did not answer.
func (p *People) note(ctx context.Context, s Confirmed, err error) {
	p.mu.Lock()
	p.outages[s.Name()] = outage{at: p.now(), err: err}
	p.mu.Unlock()
	p.o.Log.WarnContext(ctx, "a source of user accounts does not answer; confirmations stay valid for a limited time",
		slog.String("source", s.Name()), slog.Duration("limit", s.MaxOutage), slog.Any("err", err))
}
