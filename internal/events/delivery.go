package events

import "time"

// State is the state of a delivery.
type State string

// The states of a delivery.
const (
	Waiting   State = "waiting"   // for its first attempt, for another one, or for earlier events of its repository
	Delivered State = "delivered" // the receiver has accepted the event
	Failed    State = "failed"    // it is not attempted any more
)

// Delivery is the delivery of an event to a webhook.
type Delivery struct {
	ID           string
	Seq          int64 // the order of the deliveries about one repository
	WebhookID    string
	RepositoryID string // empty: none
	Event        Event
	Once         bool // a user has requested it, and it is attempted once
	State        State
	Attempts     int64
	Status       int    // of the last response; 0: none
	Error        string // of the last attempt; empty: it succeeded, or there was none
	Created      time.Time
	Updated      time.Time // the time of the last attempt, or else of creation
}

// Attempt is one request to a receiver.
type Attempt struct {
	ID           string
	WebhookID    string
	DeliveryID   string // empty: a report of lost events
	RepositoryID string // empty: none
	EventID      string
	EventType    Type
	At           time.Time
	Duration     time.Duration
	Status       int    // of the response; 0: none
	Error        string // empty: the receiver has accepted the event
}
