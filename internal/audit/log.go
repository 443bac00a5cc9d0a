package audit

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/telemetry"
)

// Rows stores entries in the database.
type Rows interface {
	// Add stores entries in one transaction. They need not be durable when it returns.
	Add(ctx context.Context, entries []Entry) error
}

// Options configure a Log.
type Options struct {
	// Log is the log of the program. It is required. It receives reports about entries that cannot be written, and,
	// without a destination, the entries.
	Log *slog.Logger
	// To is the destination of the lines; nil: Log.
	To *Destination
	// Rows stores the entries; nil: they are not stored.
	Rows Rows
}

// Log is the audit log. It is safe for concurrent use.
type Log struct {
	log     *slog.Logger
	to      *Destination
	rows    *batches // nil without Rows
	repeats repeats
}

// New returns a Log. Close it if it has a destination or stores rows.
func New(o Options) *Log {
	l := &Log{log: o.Log, to: o.To}
	if o.Rows != nil {
		l.rows = newBatches(o.Rows, o.Log)
	}
	l.repeats.write = func(e Entry, details []slog.Attr) {
		l.write(context.Background(), e, details) //nolint:forbidigo // a count belongs to many requests
	}
	return l
}

// Or returns l or, if l is nil, a Log whose lines go to log and that stores no rows.
func Or(l *Log, log *slog.Logger) *Log {
	if l == nil {
		return New(Options{Log: log})
	}
	return l
}

// Record writes an entry. A nil Log has no effect. The actor, unless e has one, and the correlation id are those of the
// context. Record returns when the line is written; the row follows within a second. An entry that is not Done may be
// counted instead: see Window.
func (l *Log) Record(ctx context.Context, e Entry, details ...slog.Attr) {
	if l == nil {
		return
	}
	if e.Actor == (actor.Actor{}) {
		e.Actor = actor.From(ctx)
	}
	e.At, e.Correlation, e.Count = time.Now().UTC().Truncate(time.Microsecond), telemetry.Correlation(ctx), 1
	if e.Result == Done {
		l.write(ctx, e, details)
		return
	}
	d := l.repeats.admit(e, details)
	l.repeats.writeAll(d.ended)
	if d.now {
		l.write(ctx, d.entry, d.details)
	}
}

// write completes an entry and writes its line and its row.
func (l *Log) write(ctx context.Context, e Entry, details []slog.Attr) {
	e.ID = uuid.Must(uuid.NewV7()).String()
	for _, text := range []*string{&e.Actor.Name, &e.Actor.Identity, &e.Actor.Address, &e.Action, &e.Object} {
		*text = storable(*text)
	}
	if e.Details == nil {
		e.Details = encodeDetails(details)
	}
	if l.to != nil {
		l.to.write(e.encode(), l.log)
	} else {
		l.log.LogAttrs(ctx, slog.LevelInfo, "audit", e.attrs(details)...)
	}
	if l.rows != nil {
		l.rows.add(e)
	}
}

// storable replaces the bytes that not every database stores: those that are not UTF-8, and NUL.
func storable(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\ufffd"), "\x00", "\ufffd")
}

// Stats describes the rows of a Log.
type Stats struct {
	Waiting int   // rows that are not stored yet
	Lost    int64 // rows that the database did not take in time
}

// Stats returns the present numbers of rows.
func (l *Log) Stats() Stats {
	if l.rows == nil {
		return Stats{}
	}
	l.rows.mu.Lock()
	defer l.rows.mu.Unlock()
	return Stats{Waiting: len(l.rows.queue), Lost: l.rows.dropped}
}

// Close writes the counts of refusals, stores the rows that wait, and closes the destination. The caller records
// nothing afterwards.
func (l *Log) Close(ctx context.Context) error {
	l.repeats.flush()
	var err error
	if l.rows != nil {
		err = l.rows.close(ctx)
	}
	if l.to != nil {
		if closeErr := l.to.Close(); err == nil {
			err = closeErr
		}
	}
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	return nil
}
