// Package events defines the events that webhooks receive: their types, their data and their form as CloudEvents 1.0.
// It signs them as Standard Webhooks. It does no I/O and imports nothing of this project.
//
// docs/webhooks.md describes the events, and docs/webhooks.schema.json their data.
package events

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// Type is the type of an event. The last element of its name is the version of its data: a change that receivers could
// notice, other than a further member, makes a new type.
type Type string

// The types of events. Receivers can choose those in Types; Ping and Lost concern the webhook itself.
const (
	Push             Type = "io.countersign.repository.push.v1"
	TagCreated       Type = "io.countersign.tag.created.v1"
	TagMoved         Type = "io.countersign.tag.moved.v1"
	TagRemoved       Type = "io.countersign.tag.removed.v1"
	VersionCreated   Type = "io.countersign.version.created.v1"
	SignatureAdded   Type = "io.countersign.signature.added.v1"
	SignatureRemoved Type = "io.countersign.signature.removed.v1"
	TaskEnded        Type = "io.countersign.task.ended.v1"
	SyncEnded        Type = "io.countersign.sync.ended.v1"
	Ping             Type = "io.countersign.webhook.ping.v1"
	Lost             Type = "io.countersign.webhook.events_lost.v1"
)

// Types are the types that a webhook can be limited to.
var Types = []Type{
	Push, TagCreated, TagMoved, TagRemoved, VersionCreated, SignatureAdded, SignatureRemoved, TaskEnded, SyncEnded,
}

// MediaType is the media type of an encoded event.
const MediaType = "application/cloudevents+json"

// Event is something that has happened on this server.
type Event struct {
	ID       string // unique, and the same in every delivery
	Type     Type
	Sequence int64 // later events of one repository have higher numbers
	// Path is the href of the object that the event happened to. With the public URL before it, it is the source.
	Path    string
	Subject string
	Time    time.Time
	Data    json.RawMessage
}

// New returns an event with the JSON form of data, which is one of the types of data.go. Path and Subject say what it
// happened to. The caller sets ID, Sequence and Time.
func New(kind Type, path, subject string, data any) (Event, error) {
	raw, err := encode(data)
	if err != nil {
		return Event{}, fmt.Errorf("encode the data of an event of type %s: %w", kind, err)
	}
	return Event{Type: kind, Path: path, Subject: subject, Data: raw}, nil
}

// envelope is an event in the JSON format of CloudEvents 1.0. sequence is the extension "Sequence".
type envelope struct {
	SpecVersion     string          `json:"specversion"`
	ID              string          `json:"id"`
	Source          string          `json:"source"`
	Type            Type            `json:"type"`
	Subject         string          `json:"subject,omitempty"`
	Time            time.Time       `json:"time"`
	Sequence        string          `json:"sequence"`
	DataContentType string          `json:"datacontenttype"`
	Data            json.RawMessage `json:"data"`
}

// Encode returns the event as structured JSON. publicURL is the address of this server without a slash at the end.
func (e Event) Encode(publicURL string) ([]byte, error) {
	return encode(envelope{
		SpecVersion: "1.0", ID: e.ID, Source: publicURL + e.Path, Type: e.Type, Subject: e.Subject, Time: e.Time.UTC(),
		Sequence: fmt.Sprintf("%020d", e.Sequence), DataContentType: "application/json", Data: e.Data,
	})
}

// encode returns the JSON form of a value, with <, > and & as they are.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
