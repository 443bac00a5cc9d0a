// Package eventlog records events in the transactions that cause them: the writing side of the outbox for webhooks. Package
// webhooks reads it.
//
// An event is stored once, with one delivery for each webhook that receives it. The deliveries to a webhook about one
// repository form a stream. They are made in the order of their numbers, which is the order of the commits.
package eventlog

import (
	"database/sql"
	"errors"
	"slices"

	"github.com/countersign/countersign/internal/events"
	"github.com/countersign/countersign/internal/glob"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/sqldb"
)

// Streams beside those of repositories, whose names are their ids.
const (
	Server = "server" // events about no repository
	Manual = "manual" // deliveries that users request
)

// Listening is the expression that an active webhook exists. Without one, no event need be composed.
const Listening = `EXISTS (SELECT 1 FROM webhook WHERE active)`

// receiver is a webhook that may receive events about a repository.
type receiver struct {
	id    string
	types []string // nil: all
}

func (r receiver) wants(kind events.Type) bool {
	return r.types == nil || slices.Contains(r.types, string(kind))
}

// Recorder records events about one repository. A nil Recorder records none.
type Recorder struct {
	t         *sqldb.Tx
	id        string // of the repository; empty: none
	receivers []receiver
	recorded  []events.Event
}

// For returns the recorder of events about a repository, nil if no active webhook has a pattern for its name. An empty id and
// name stand for no repository, which only patterns for all names match.
func For(t *sqldb.Tx, id, name string) (*Recorder, error) {
	type row struct {
		receiver
		patterns []string
	}
	rows, err := sqldb.Collect(t.Ctx, t, func(s sqldb.Scanner) (r row, err error) {
		var patterns, types string
		if err = s.Scan(&r.id, &patterns, &types); err == nil {
			err = sqldb.FromJSON("webhook.patterns", patterns, &r.patterns)
		}
		if err == nil {
			err = sqldb.FromJSON("webhook.event_types", types, &r.types)
		}
		return r, err
	}, `SELECT w.id, w.patterns, COALESCE(w.event_types, 'null') FROM webhook w WHERE w.active ORDER BY w.id`)
	if err != nil {
		return nil, err
	}
	r := &Recorder{t: t, id: id}
	for _, w := range rows {
		if slices.ContainsFunc(w.patterns, func(p string) bool { return glob.MatchName(p, name) }) {
			r.receivers = append(r.receivers, w.receiver)
		}
	}
	if r.receivers == nil {
		return nil, nil
	}
	return r, nil
}

// Wants reports whether a webhook receives events of one of some types.
func (r *Recorder) Wants(types ...events.Type) bool {
	return r != nil && slices.ContainsFunc(r.receivers, func(w receiver) bool { return slices.ContainsFunc(types, w.wants) })
}

// Record stores an event at the end of the transaction, after events that were recorded before.
func (r *Recorder) Record(e events.Event) {
	if !r.Wants(e.Type) {
		return
	}
	if r.recorded == nil {
		r.t.Defer("event "+r.stream(), r.store)
	}
	r.recorded = append(r.recorded, e)
}

func (r *Recorder) stream() string {
	if r.id == "" {
		return Server
	}
	return r.id
}

// store inserts the recorded events and their deliveries. The lock makes the order of their numbers that of the commits.
func (r *Recorder) store() error {
	if err := r.t.LockNamed("countersign:event:" + r.stream()); err != nil {
		return err
	}
	used := map[string]bool{}
	for _, e := range r.recorded {
		var to []string
		for _, w := range r.receivers {
			if w.wants(e.Type) {
				to, used[w.id] = append(to, w.id), true
			}
		}
		if err := insert(r.t, e, r.id, r.stream(), to); err != nil {
			return err
		}
	}
	for _, w := range r.receivers { // in the order of their ids, so that transactions cannot deadlock
		if used[w.id] {
			if err := Wake(r.t, w.id, r.stream()); err != nil {
				return err
			}
		}
	}
	return nil
}

// insert stores an event with its deliveries to webhooks.
func insert(t *sqldb.Tx, e events.Event, repositoryID, stream string, to []string) error {
	seq, err := Put(t, e, repositoryID)
	for i := 0; err == nil && i < len(to); i++ {
		_, err = Deliver(t, to[i], stream, seq, false)
	}
	return err
}

// Put stores an event and returns its number. The id of its repository may be empty.
func Put(t *sqldb.Tx, e events.Event, repositoryID string) (seq int64, err error) {
	err = t.Row(`
		INSERT INTO webhook_event (id, type, repository_id, path, subject, at, data) VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING seq`,
		pulp.NewID(), e.Type, repositoryID, e.Path, e.Subject, t.Now, string(e.Data)).Scan(&seq)
	return seq, err
}

// Deliver adds the delivery of a stored event to the end of a stream and returns its id. With once it is attempted once only.
// The caller calls Wake.
func Deliver(t *sqldb.Tx, webhook, stream string, event int64, once bool) (string, error) {
	id := pulp.NewID()
	_, err := t.Exec(`
		INSERT INTO webhook_delivery (id, webhook_id, stream, event_seq, once, state, created, updated)
		VALUES ($1, $2, $3, $4, $5, 'waiting', $6, $6)`, id, webhook, stream, event, once, t.Now)
	return id, err
}

// Wake makes a stream with new deliveries due, unless it is waiting after a failure. The fence of a new stream begins at the
// current time, so that it matches no claim of a deleted stream with the same name.
func Wake(t *sqldb.Tx, webhook, stream string) error {
	_, err := t.Exec(`
		INSERT INTO webhook_stream (webhook_id, stream, due, fence, serial) VALUES ($1, $2, $3, $3, 1)
		ON CONFLICT (webhook_id, stream) DO UPDATE SET serial = webhook_stream.serial + 1`, webhook, stream, t.Now)
	return err
}

// Repository returns a repository in the form of the data of events. Its base path is that of the distribution which the first
// push created or that has the repository's name, or else of a public one.
func Repository(t *sqldb.Tx, r pulp.Repository) (events.Repository, error) {
	shown := events.Repository{Name: r.Name, Href: pulp.RepositoryHref(r.Type, r.ID)}
	var base string
	err := t.Row(`
		SELECT d.base_path FROM distribution d WHERE d.repository_id = $1 AND (d.base_path = $2 OR NOT d.private)
		 ORDER BY d.base_path <> $2, d.base_path LIMIT 1`, r.ID, r.PolicyName()).Scan(&base)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return shown, nil
	case err != nil:
		return shown, err
	}
	shown.BasePath = &base
	return shown, nil
}
