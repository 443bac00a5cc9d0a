package webhook

import (
	"context"
	"time"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/eventlog"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/webhooks"
)

// Access reads the permissions of the owners of webhooks.
type Access struct {
	Decider *access.Decider
	// Confirm returns an account as its source has it now; see auth.Auth.Confirm.
	Confirm func(context.Context, pulp.User) (pulp.User, error)
}

// delivery delivers the events of one claimed stream.
type delivery struct {
	*Dispatcher
	claim      *webhooks.Claim
	until, end time.Time // of the lease and of the turn
}

// run returns nil if the claim has ended.
func (s *delivery) run(ctx context.Context) error {
	for {
		q, err := s.Store.Webhooks.Waiting(ctx, s.claim, pieces)
		if err != nil {
			return err
		}
		if len(q.Deliveries) == 0 && q.Lost.Number == 0 {
			if closed, err := s.Store.Webhooks.Close(ctx, s.claim); closed || err != nil {
				return err
			}
			continue
		}
		w, err := s.Store.Webhooks.Webhook(ctx, s.claim.WebhookID)
		if fault.Is(err, fault.NotFound) || err == nil && !w.Active {
			return s.Store.Webhooks.Release(ctx, s.claim, 0) // it is not due until the webhook is active
		} else if err != nil {
			return err
		}
		v, err := s.viewer(ctx, w)
		if err != nil {
			return err
		}
		if ended, err := s.piece(ctx, w, v, q); ended || err != nil {
			return err
		}
		if time.Now().After(s.end) {
			return s.Store.Webhooks.Release(ctx, s.claim, 0)
		}
	}
}

// piece delivers some events in order. ended is true if the claim has ended, because an attempt failed.
func (s *delivery) piece(ctx context.Context, w pulp.Webhook, v viewer, q webhooks.Queue) (ended bool, err error) {
	if q.Lost.Number > 0 {
		if ended, err := s.report(ctx, w, v, q); ended || err != nil {
			return ended, err
		}
	}
	for _, d := range q.Deliveries {
		sees, err := v.sees(ctx, d.RepositoryID, d.Event)
		if err != nil {
			return false, err
		}
		if !sees {
			if err := s.Store.Webhooks.Refuse(ctx, s.claim, []events.Delivery{d}); err != nil {
				return false, err
			}
			continue
		}
		e := d.Event
		if !v.all() {
			if e, err = v.limited(ctx, e); err != nil {
				return false, err
			}
		}
		if ended, err := s.attempt(ctx, w, q.Failures, d, e); ended || err != nil {
			return ended, err
		}
		q.Failures = 0
	}
	return false, nil
}

// attempt sends an event once and records the result.
func (s *delivery) attempt(ctx context.Context, w pulp.Webhook, failures int, d events.Delivery, e events.Event) (ended bool, err error) {
	r, a, err := s.send(ctx, w, e)
	if err != nil {
		return false, err
	}
	a.DeliveryID, a.RepositoryID = d.ID, d.RepositoryID
	done, cancel := s.recorded(ctx)
	defer cancel()
	switch {
	case r.failure == "":
		s.until = time.Now().Add(s.lease)
		return false, s.Store.Webhooks.Delivered(done, s.claim, a, failures > 0, s.lease)
	case d.Once:
		s.until = time.Now().Add(s.lease)
		return false, s.Store.Webhooks.GaveUp(done, s.claim, a, s.lease)
	}
	return true, s.Store.Webhooks.Failed(done, s.claim, a, wait(r, failures))
}

// report tells the receiver of lost events.
func (s *delivery) report(ctx context.Context, w pulp.Webhook, v viewer, q webhooks.Queue) (ended bool, err error) {
	repository := s.claim.Name
	if repository == eventlog.Server || repository == eventlog.Manual {
		repository = ""
	}
	sees, err := v.sees(ctx, repository, events.Event{Type: events.Lost})
	if err != nil {
		return false, err
	}
	if !sees {
		return false, s.Store.Webhooks.Refuse(ctx, s.claim, nil)
	}
	e, err := s.lost(ctx, w, repository, q.Lost)
	if err != nil {
		return false, err
	}
	r, a, err := s.send(ctx, w, e)
	if err != nil {
		return false, err
	}
	a.RepositoryID = repository
	done, cancel := s.recorded(ctx)
	defer cancel()
	if r.failure == "" {
		s.until = time.Now().Add(s.lease)
		return false, s.Store.Webhooks.Reported(done, s.claim, q.Lost, a, s.lease)
	}
	return true, s.Store.Webhooks.Failed(done, s.claim, a, wait(r, q.Failures))
}

// lost returns the event that reports lost events about a repository.
func (s *delivery) lost(ctx context.Context, w pulp.Webhook, repository string, l webhooks.Lost) (events.Event, error) {
	data := events.LostData{Webhook: events.Webhook{Name: w.Name, Href: pulp.Href(pulp.WebhookCollection, w.ID)}}
	path, subject := pulp.Root, ""
	if repository != "" {
		r, err := s.Store.Catalog.RepositoryByID(ctx, repository)
		switch {
		case fault.Is(err, fault.NotFound):
		case err != nil:
			return events.Event{}, err
		default:
			path, subject = pulp.RepositoryHref(r.Type, r.ID), r.Name
			data.Repository = &events.Repository{Name: r.Name, Href: path}
		}
	}
	return lostEvent(l, path, subject, data)
}

// send extends the lease if a request could outlive it, and sends an event.
func (s *delivery) send(ctx context.Context, w pulp.Webhook, e events.Event) (r result, a events.Attempt, err error) {
	if err := ctx.Err(); err != nil {
		return r, a, err
	}
	if time.Until(s.until) < s.Timeout+margin/2 {
		s.until = time.Now().Add(s.lease)
		if err := s.Store.Webhooks.Extend(ctx, s.claim, s.lease); err != nil {
			return r, a, err
		}
	}
	a = events.Attempt{WebhookID: w.ID, EventID: e.ID, EventType: e.Type, At: time.Now()}
	r = s.Sender.send(context.WithoutCancel(ctx), w, e) // the timeout bounds it; a process that stops waits for it
	s.setDown(w.ID, r.failure != "")
	a.Duration, a.Status, a.Error = r.duration, r.status, r.failure
	return r, a, nil
}

// recorded returns a context for recording a result, also while the process stops.
func (s *delivery) recorded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), recording)
}

// wait returns the time until the next attempt after a failure.
func wait(r result, failures int) time.Duration {
	return max(backoff.Wait(failures), r.retryAfter)
}

// viewer is the owner of a webhook.
type viewer struct {
	*delivery
	caller *access.Caller // nil: the owner may view nothing
	viewer *access.Viewer // nil: all repositories, if caller is not nil
	seen   map[string]bool
}

// viewer reads the owner of a webhook with its present permissions.
func (s *delivery) viewer(ctx context.Context, w pulp.Webhook) (viewer, error) {
	v := viewer{delivery: s, seen: map[string]bool{}}
	if w.OwnerID == 0 {
		return v, nil
	}
	u, err := s.Store.Accounts.User(ctx, w.OwnerID)
	if err == nil {
		u, err = s.Access.Confirm(ctx, u)
	}
	if fault.Is(err, fault.NotFound) || err == nil && !u.Active {
		return v, nil
	} else if err != nil {
		return v, err
	}
	v.caller = &access.Caller{Account: u}
	v.viewer, err = s.Access.Decider.Viewer(ctx, v.caller)
	return v, err
}

// all reports whether the owner is an administrator.
func (v viewer) all() bool { return v.caller != nil && v.viewer == nil }

// sees reports whether the owner may view an event about a repository, and so the repository. Events about none are for
// administrators, except test events.
func (v viewer) sees(ctx context.Context, repository string, e events.Event) (bool, error) {
	switch {
	case e.Type == events.Ping || v.all():
		return true, nil
	case v.caller == nil || repository == "":
		return false, nil
	}
	if seen, ok := v.seen[repository]; ok {
		return seen, nil
	}
	found, _, err := v.Store.Lists.Repositories(ctx, list.Query{
		Where: []list.Filter{list.Where("pulp_id", list.Equal, repository), list.VisibleTo(v.viewer)}, Limit: 1,
	})
	v.seen[repository] = len(found) > 0
	return len(found) > 0, err
}

// limited returns an event without what only those may view who may view its task.
func (v viewer) limited(ctx context.Context, e events.Event) (events.Event, error) {
	ref, ok := pulp.ParseRef(e.TaskHref())
	if !ok {
		return e, nil
	}
	found, _, err := v.Store.Lists.Tasks(ctx, list.Query{
		Where: []list.Filter{list.Where("pulp_id", list.Equal, ref.ID), list.VisibleTo(v.viewer)}, Limit: 1,
	})
	if err != nil || len(found) > 0 {
		return e, err
	}
	return e.WithoutDetails()
}
