package pulp

import (
	"log/slog"
	"reflect"
	"regexp"
)

// Policy says when a sync downloads layers.
type Policy string

// The policies of remotes (contract 2.6).
const (
	Immediate Policy = "immediate" // during the sync
	OnDemand  Policy = "on_demand" // when a client asks for them; then they are kept
	Streamed  Policy = "streamed"  // whenever a client asks for them
)

// Remote is a repository of another registry, to mirror (contract 2.6).
type Remote struct {
	ID           string
	Name         string
	URL          string // http(s)://host[:port][/prefix]
	UpstreamName string // the repository there
	Policy       Policy
	Includes     []string // patterns of tags to take; nil: all
	Excludes     []string // and of those to leave; nil: none
	Sigstore     *string  // where signatures lie in files; nil: nowhere
	Connection   Connection
	Secrets      RemoteSecrets
	Labels       Labels
	Stamps
}

// SameSource reports whether two states of a remote lead to the same repository, with the same credentials and in the same way.
func (r Remote) SameSource(o Remote) bool {
	return r.URL == o.URL && r.UpstreamName == o.UpstreamName && reflect.DeepEqual(r.Secrets, o.Secrets) && reflect.DeepEqual(r.Connection, o.Connection)
}

// tokenHost is a host, and perhaps a port, as in a URL.
var tokenHost = regexp.MustCompile(`^([a-zA-Z0-9.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?$`)

// ValidTokenHost reports whether s is a host[:port].
func ValidTokenHost(s string) bool { return len(s) <= 300 && tokenHost.MatchString(s) }

// Connection says how a remote is reached. A nil field is the default.
type Connection struct {
	CACert              *string             `json:"ca_cert,omitempty"`     // PEM
	ClientCert          *string             `json:"client_cert,omitempty"` // PEM
	TLSValidation       bool                `json:"tls_validation"`
	ProxyURL            *string             `json:"proxy_url,omitempty"`
	MaxRetries          *int64              `json:"max_retries,omitempty"`
	TotalTimeout        *float64            `json:"total_timeout,omitempty"` // these in seconds
	ConnectTimeout      *float64            `json:"connect_timeout,omitempty"`
	SockConnectTimeout  *float64            `json:"sock_connect_timeout,omitempty"`
	SockReadTimeout     *float64            `json:"sock_read_timeout,omitempty"`
	Headers             []map[string]string `json:"headers,omitempty"`
	DownloadConcurrency *int64              `json:"download_concurrency,omitempty"`
	RateLimit           *int64              `json:"rate_limit,omitempty"` // requests a second
	// TokenHosts are the host[:port] of token services, beside those of the remote's own domain, that may receive its password.
	TokenHosts []string `json:"token_hosts,omitempty"`
}

// RemoteSecrets are what a remote is told and nobody is shown. It does not print itself.
type RemoteSecrets struct {
	Username      *string `json:"username,omitempty"`
	Password      *string `json:"password,omitempty"`
	ClientKey     *string `json:"client_key,omitempty"`
	ProxyUsername *string `json:"proxy_username,omitempty"`
	ProxyPassword *string `json:"proxy_password,omitempty"`
}

// String hides the secrets.
func (RemoteSecrets) String() string { return "***" }

// GoString hides the secrets.
func (RemoteSecrets) GoString() string { return "***" }

// LogValue hides the secrets.
func (RemoteSecrets) LogValue() slog.Value { return slog.StringValue("***") }
