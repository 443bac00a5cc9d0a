// Package audit writes the audit log: one entry for each change and for each refusal.
//
// An entry is a line of JSON in a file or stream, written at once, and a row in the database, written in batches.
// Without a file the line goes to the log of the program. Repeated refusals are counted, so that nobody can fill the
// disk with them. docs/audit.md describes the entries.
package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/fault"
)

// Result is the outcome of an action.
type Result string

// The results.
const (
	Done   Result = "done"   // the change is made, or a task that makes it has been accepted
	Denied Result = "denied" // the actor has no permission, or the credentials are wrong
	Failed Result = "failed" // the change was not made for another reason
)

// Sign is the action of each use of a key.
const Sign = "sign"

// Entry is one entry of the audit log. Action and Result are required.
type Entry struct {
	ID     string    // set by Record
	At     time.Time // in UTC with microseconds; set by Record
	Actor  actor.Actor
	Action string // verb and kind of object, such as "push manifest"
	Object string // an href, or the name of a repository or of another object
	Result Result
	Status int   // of the HTTP response; 0: the entry was written before the response was known, or there is none
	Count  int64 // of equal refusals that the entry stands for; set by Record
	// Correlation is the correlation id of the request or task.
	Correlation string
	Details     json.RawMessage // a JSON object; set by Record
}

// line is the JSON form of an entry in files and streams.
type line struct {
	Time        string          `json:"time"`
	ID          string          `json:"id"`
	Actor       string          `json:"actor"`
	ActorID     int64           `json:"actor_id,omitempty"`
	ActorKind   actor.Kind      `json:"actor_kind"`
	Identity    string          `json:"identity,omitempty"`
	Address     string          `json:"address,omitempty"`
	Action      string          `json:"action"`
	Object      string          `json:"object"`
	Result      Result          `json:"result"`
	Status      int             `json:"status,omitempty"`
	Count       int64           `json:"count"`
	Correlation string          `json:"correlation_id,omitempty"`
	Details     json.RawMessage `json:"details"`
}

// timeForm has the precision of the database.
const timeForm = "2006-01-02T15:04:05.000000Z"

// encode returns the entry as a line of JSON.
func (e Entry) encode() []byte {
	var b bytes.Buffer
	to := json.NewEncoder(&b)
	to.SetEscapeHTML(false)
	err := to.Encode(line{
		Time: e.At.Format(timeForm), ID: e.ID, Actor: e.Actor.Name, ActorID: e.Actor.ID, ActorKind: e.Actor.Kind,
		Identity: e.Actor.Identity, Address: e.Actor.Address, Action: e.Action, Object: e.Object, Result: e.Result,
		Status: e.Status, Count: e.Count, Correlation: e.Correlation, Details: e.Details,
	})
	if err != nil { // strings, numbers and encoded JSON
		panic(err)
	}
	return escapeInvisible(b.Bytes())
}

// escapeInvisible replaces characters that are not printable, such as those that change the direction of text or
// control a terminal, by their JSON escapes. encoding/json escapes those of ASCII only. The input is JSON, in which
// such characters are in strings only.
func escapeInvisible(text []byte) []byte {
	if !bytes.ContainsFunc(text, invisible) {
		return text
	}
	out := make([]byte, 0, 2*len(text))
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case !invisible(r):
			out = append(out, text[:n]...)
		case r > 0xffff:
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		text = text[n:]
	}
	return out
}

func invisible(r rune) bool { return r >= utf8.RuneSelf && !unicode.IsGraphic(r) }

// internalError replaces errors that are not meant for users. The log of the program has them.
const internalError = "Internal error; the log of the program has it under the same correlation id."

// encodeDetails returns attributes as a JSON object. Of errors it contains the message for users only.
func encodeDetails(attrs []slog.Attr) json.RawMessage {
	var b bytes.Buffer
	b.WriteByte('{')
	for _, a := range attrs {
		value := a.Value.Resolve().Any()
		if err, ok := value.(error); ok {
			value = internalError
			if text, ok := fault.Message(err); ok {
				value = text
			}
		}
		encoded, err := json.Marshal(value)
		if err != nil {
			encoded, _ = json.Marshal(fmt.Sprint(value))
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		name, _ := json.Marshal(a.Key) // a string
		b.Write(name)
		b.WriteByte(':')
		b.Write(encoded)
	}
	b.WriteByte('}')
	return b.Bytes()
}

// attrs returns the entry as attributes of the program's log, which adds the time and the correlation id.
func (e Entry) attrs(details []slog.Attr) []slog.Attr {
	all := []slog.Attr{
		slog.String("who", e.Actor.Name), slog.String("kind", string(e.Actor.Kind)), slog.String("action", e.Action),
		slog.String("object", e.Object), slog.String("result", string(e.Result)),
	}
	for _, v := range []struct{ name, text string }{{"identity", e.Actor.Identity}, {"address", e.Actor.Address}} {
		if v.text != "" {
			all = append(all, slog.String(v.name, v.text))
		}
	}
	if e.Status != 0 {
		all = append(all, slog.Int("status", e.Status))
	}
	if e.Count > 1 {
		all = append(all, slog.Int64("count", e.Count))
	}
	return append(all, details...)
}
