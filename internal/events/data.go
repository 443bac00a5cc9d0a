package events

import (
	"encoding/json"
	"fmt"
	"time"
)

// Repository is a repository in the data of events.
type Repository struct {
	Name     string  `json:"name"`
	Href     string  `json:"href"`
	BasePath *string `json:"base_path"` // the path of a distribution that serves it; null: none does
}

// Actor is the account, or the part of the server, that caused an event.
type Actor struct {
	Name string `json:"name"` // empty for an account that was deleted
	Kind string `json:"kind"` // of package actor; empty for an account that was deleted
}

// Version is a version of a repository in the data of events.
type Version struct {
	Number int64  `json:"number"`
	Href   string `json:"href"`
}

// Content is the beginning of the data of events about the content of a repository.
type Content struct {
	Repository Repository `json:"repository"`
	Version    Version    `json:"version"` // the version that contains the change
	Actor      Actor      `json:"actor"`
}

// PushData is the data of Push: a client has pushed a manifest.
type PushData struct {
	Content
	Digest    string   `json:"digest"`
	MediaType string   `json:"media_type"`
	Tags      []string `json:"tags"` // empty for a manifest with a subject that was pushed by digest
}

// TagData is the data of TagCreated, TagMoved and TagRemoved.
type TagData struct {
	Content
	Tag          string  `json:"tag"`
	Digest       *string `json:"digest"` // null for a removed tag, as is MediaType
	MediaType    *string `json:"media_type"`
	OldDigest    *string `json:"old_digest"` // null for a created tag, as is OldMediaType
	OldMediaType *string `json:"old_media_type"`
}

// VersionData is the data of VersionCreated.
type VersionData struct {
	Content
	Present Units `json:"present"`
	Added   Units `json:"added"`
	Removed Units `json:"removed"`
	// Complete is false if the version changes more tags or signatures than there are events for.
	Complete bool `json:"complete"`
}

// Units are numbers of content units.
type Units struct {
	Blobs      int64 `json:"blobs"`
	Manifests  int64 `json:"manifests"`
	Tags       int64 `json:"tags"`
	Signatures int64 `json:"signatures"`
}

// SignatureData is the data of SignatureAdded and SignatureRemoved.
type SignatureData struct {
	Content
	Digest    string    `json:"digest"` // of the manifest
	Signature Signature `json:"signature"`
}

// Signature is a signature in the data of events.
type Signature struct {
	Digest    string    `json:"digest"`
	Name      string    `json:"name"`
	Reference string    `json:"reference"` // the docker reference that is signed
	KeyID     string    `json:"key_id"`
	Service   *string   `json:"signing_service"` // the name of the signing service with this key; null: none
	SignedAt  time.Time `json:"signed_at"`
}

// TaskData is the data of TaskEnded and of SyncEnded.
type TaskData struct {
	Repository *Repository `json:"repository"` // null for a task about no repository, or about several
	Version    *Version    `json:"version"`    // the version that the task made; null: none
	Actor      Actor       `json:"actor"`
	Task       Task        `json:"task"`
}

// Task is a task in the data of events.
type Task struct {
	Href       string     `json:"href"`
	Name       string     `json:"name"`
	State      string     `json:"state"` // completed, failed or canceled
	StartedAt  *time.Time `json:"started_at"`
	FinishedAt time.Time  `json:"finished_at"`
	LoggingCID string     `json:"logging_cid"`
	// Error is the reason of a failure. It is null for a receiver who may not view the task, as is CreatedResources.
	Error            *string  `json:"error"`
	CreatedResources []string `json:"created_resources"`
}

// WithoutDetails returns the event of a task for a receiver who may not view the task. Other events are unchanged.
func (e Event) WithoutDetails() (Event, error) {
	if !e.AboutTask() {
		return e, nil
	}
	var data TaskData
	if err := json.Unmarshal(e.Data, &data); err != nil {
		return Event{}, fmt.Errorf("decode the data of event %s: %w", e.ID, err)
	}
	data.Task.Error, data.Task.CreatedResources = nil, nil
	raw, err := encode(data)
	e.Data = raw
	return e, err
}

// AboutTask reports whether the data is TaskData.
func (e Event) AboutTask() bool { return e.Type == TaskEnded || e.Type == SyncEnded }

// TaskHref returns the href of the task that the event is about; empty for other events.
func (e Event) TaskHref() string {
	var data TaskData
	if !e.AboutTask() || json.Unmarshal(e.Data, &data) != nil {
		return ""
	}
	return data.Task.Href
}

// Webhook is a webhook in the data of events.
type Webhook struct {
	Name string `json:"name"`
	Href string `json:"href"`
}

// PingData is the data of Ping, which a user requests as a test.
type PingData struct {
	Webhook Webhook `json:"webhook"`
	Actor   Actor   `json:"actor"`
}

// LostData is the data of Lost: earlier events of a repository are not delivered any more.
type LostData struct {
	Webhook    Webhook     `json:"webhook"`
	Repository *Repository `json:"repository"` // null: events about no repository, or about one that was deleted
	Lost       int64       `json:"lost"`
	First      time.Time   `json:"first"` // the time of the first lost event
	Last       time.Time   `json:"last"`
}
