package pulp

import "time"

// Webhook is a receiver of events. See docs/webhooks.md.
type Webhook struct {
	ID   string
	Name string
	URL  string // http(s), without credentials
	// Secret signs deliveries, in the form of Standard Webhooks. OldSecret, if set, also signs until OldSecretUntil.
	Secret, OldSecret string
	OldSecretUntil    *time.Time
	Patterns          []string // of the names of repositories (glob.MatchName)
	EventTypes        []string // nil: all types
	Active            bool
	Headers           map[string]string // of each request; the values may be secrets
	CACert            *string           // PEM
	TLSValidation     bool
	OwnerID           int64  // the account whose permissions decide which repositories it sees; 0: deleted, it sees none
	Owner             string // the name of that account; empty: deleted
	Backlog           int64  // number of events that wait to be delivered
	// FailingSince is the time of the first failed attempt since the last success, for the repository for which that is
	// the longest ago; nil: no repository's events are failing.
	FailingSince *time.Time
	Stamps
}

// KeepsHeaders reports whether the headers of an older state may stay in this one: they reach the same server, under
// certificates that are verified as before. Otherwise whoever may change the webhook could read headers that nobody is shown.
func (w Webhook) KeepsHeaders(old Webhook) bool {
	return sameHost(w.URL, old.URL) && verifiesAs(w.TLSValidation, w.CACert, old.TLSValidation, old.CACert)
}
