package pulp

import (
	"log/slog"
	"net/url"
	"reflect"
	"regexp"
	"strings"
)

// Policy determines the time at which the blobs of a mirrored repository are downloaded.
type Policy string

// The policies of remotes. See compatibility.md#remotes.
const (
	Immediate Policy = "immediate" // during the sync
	OnDemand  Policy = "on_demand" // at the first request of a client; they are stored
	Streamed  Policy = "streamed"  // at each request of a client; they are not stored
)

// Remote is a repository in another registry that can be mirrored. A pull-through remote is a registry whose repositories
// pull-through distributions fetch. See compatibility.md#remotes and compatibility.md#pull-through.
type Remote struct {
	ID           string
	Name         string
	URL          string // http(s)://host[:port][/prefix]
	UpstreamName string // of the repository in that registry
	Policy       Policy
	Includes     []string // patterns of tags to sync, or of repositories for a pull-through remote; nil for all
	Excludes     []string // patterns of tags or repositories to skip; nil for none
	Sigstore     *string  // URL of a lookaside signature store; nil if there is none
	Connection   Connection
	Secrets      RemoteSecrets
	Labels       Labels
	PullThrough  bool // it is a pull-through remote
	// CacheID is the pull-through remote that the remote of a cached repository has its URL, sigstore, connection and
	// secrets from; empty for others.
	CacheID string
	Stamps
}

// Collection returns the collection of the remote.
func (r Remote) Collection() string {
	if r.PullThrough {
		return PullThroughRemoteCollection
	}
	return RemoteCollection
}

// HasCredentials reports whether requests to the remote carry credentials: a user name, a password, a client key or headers.
func (r Remote) HasCredentials() bool {
	s := r.Secrets
	return s.Username != nil || s.Password != nil || s.ClientKey != nil || len(r.Connection.Headers) > 0
}

// SameSource reports whether two states of a remote have the same repository, credentials and connection settings.
func (r Remote) SameSource(o Remote) bool {
	return r.URL == o.URL && r.UpstreamName == o.UpstreamName && reflect.DeepEqual(r.Secrets, o.Secrets) &&
		reflect.DeepEqual(r.Connection, o.Connection)
}

// KeepsPassword reports whether the user name and the password of an older state may stay in this one: they reach the
// same server, directly or through the same proxy, under certificates that are verified as before. Otherwise whoever may change the
// remote could read a password that nobody is shown.
func (r Remote) KeepsPassword(old Remote) bool {
	c, o := r.Connection, old.Connection
	return sameHost(r.URL, old.URL) && r.KeepsProxyPassword(old) && verifiesAs(c.TLSValidation, c.CACert, o.TLSValidation, o.CACert)
}

// verifiesAs reports whether settings accept no certificates that older settings refuse.
func verifiesAs(validation bool, ca *string, oldValidation bool, oldCA *string) bool {
	return (validation || !oldValidation) && (ca == nil || oldCA != nil && *ca == *oldCA)
}

// KeepsProxyPassword is KeepsPassword for the credentials for the proxy.
func (r Remote) KeepsProxyPassword(old Remote) bool {
	a, b := r.Connection.ProxyURL, old.Connection.ProxyURL
	return a == nil || b != nil && sameHost(*a, *b)
}

// sameHost reports whether two URLs have the same scheme, host and port.
func sameHost(a, b string) bool {
	if a == b {
		return true
	}
	first, err := url.Parse(a)
	if err != nil {
		return false
	}
	second, err := url.Parse(b)
	return err == nil && first.Scheme == second.Scheme && hostPort(first) == hostPort(second)
}

var defaultPorts = map[string]string{"http": ":80", "https": ":443"}

func hostPort(u *url.URL) string {
	return strings.TrimSuffix(strings.ToLower(u.Host), defaultPorts[u.Scheme])
}

// tokenHost matches a host with an optional port, as in a URL.
var tokenHost = regexp.MustCompile(`^([a-zA-Z0-9.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?$`)

// ValidTokenHost reports whether s has the form host[:port].
func ValidTokenHost(s string) bool { return len(s) <= 300 && tokenHost.MatchString(s) }

// Connection contains the connection settings of a remote. A nil field has its default.
type Connection struct {
	CACert              *string             `json:"ca_cert,omitempty"`     // PEM
	ClientCert          *string             `json:"client_cert,omitempty"` // PEM
	TLSValidation       bool                `json:"tls_validation"`
	ProxyURL            *string             `json:"proxy_url,omitempty"`
	MaxRetries          *int64              `json:"max_retries,omitempty"`
	TotalTimeout        *float64            `json:"total_timeout,omitempty"` // timeouts are in seconds
	ConnectTimeout      *float64            `json:"connect_timeout,omitempty"`
	SockConnectTimeout  *float64            `json:"sock_connect_timeout,omitempty"`
	SockReadTimeout     *float64            `json:"sock_read_timeout,omitempty"`
	Headers             []map[string]string `json:"headers,omitempty"`
	DownloadConcurrency *int64              `json:"download_concurrency,omitempty"`
	RateLimit           *int64              `json:"rate_limit,omitempty"` // requests per second
	// TokenHosts are the host[:port] of token services outside of the remote's own domain that may receive its password.
	TokenHosts []string `json:"token_hosts,omitempty"`
}

// RemoteSecrets are the credentials for a remote. They are hidden in logs and formatted output.
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
