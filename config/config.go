// Package config holds the settings of the program. Load reads them from defaults, a YAML file and the environment,
// in this order, and checks the result as a whole.
//
// Of this project it imports only package glob.
package config

import (
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Secret is a string that is hidden in logs, in formatted output and in encodings. Reveal returns it.
type Secret string

// String hides the secret.
func (Secret) String() string { return "***" }

// GoString hides the secret.
func (Secret) GoString() string { return "***" }

// LogValue hides the secret.
func (Secret) LogValue() slog.Value { return slog.StringValue("***") }

// MarshalText hides the secret. An empty one is shown as such.
func (s Secret) MarshalText() ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	return []byte("***"), nil
}

// Reveal returns the secret.
func (s Secret) Reveal() string { return string(s) }

// Config contains all settings. Each setting is a YAML key and an environment variable. The name of the variable is
// COUNTERSIGN_ and the key in upper case with an underscore for each dot. Lists of blocks have no variable.
type Config struct {
	// Data is the data directory: the SQLite database, stored blobs, keys and work files.
	Data string `yaml:"data" env:"DATA"`
	// Listen is the address to listen on, HOST:PORT. The server speaks plain HTTP there unless TLS is set.
	Listen string `yaml:"listen" env:"LISTEN"`
	// PublicURL is the URL that clients use, as the operator wrote it. Use Public for its normal form: the host of that
	// form is the identity in signatures and the service of tokens. Default: http://localhost:<port>, or https with TLS.
	PublicURL string `yaml:"public_url" env:"PUBLIC_URL"`
	// DatabaseURL is sqlite:<path> or postgres://USER:PASSWORD@HOST:PORT/DATABASE. Default: an SQLite file in Data.
	DatabaseURL string `yaml:"database_url" env:"DATABASE_URL"`
	// RedisURL is the address of the task queue: redis:// or rediss://[USER:PASSWORD@]HOST[:PORT][/DATABASE]. Empty:
	// the queue is in memory.
	RedisURL Secret `yaml:"redis_url" env:"REDIS_URL"`
	// UpstreamURL is the URL of an existing registry that stores blobs and manifests. Empty: this server stores them
	// itself.
	UpstreamURL string `yaml:"upstream_url" env:"UPSTREAM_URL"`
	// Storage selects the storage driver for blobs. It is not used with an upstream.
	Storage Storage `yaml:"storage" env:"STORAGE"`
	// AdminPassword is set as the password of the user admin at each start. Empty: the first start generates a
	// password and prints it once.
	AdminPassword Secret `yaml:"admin_password" env:"ADMIN_PASSWORD"`
	// Workers is the number of tasks that run concurrently in this process, in addition to the reserved slots of
	// package tasks. With 0 the process serves the registry and the API only.
	Workers int `yaml:"workers" env:"WORKERS"`
	// TaskLease is the time without a heartbeat of a worker after which another worker takes over its task.
	TaskLease time.Duration `yaml:"task_lease" env:"TASK_LEASE"`
	// PushRepositoryType is the type of repositories that pushes create: container-push or container. See
	// compatibility.md#push-repository-type.
	PushRepositoryType string `yaml:"push_repository_type" env:"PUSH_REPOSITORY_TYPE"`
	// SignLists makes sign tasks sign manifest lists and indexes too. See compatibility.md#signing-lists.
	SignLists bool `yaml:"sign_lists" env:"SIGN_LISTS"`
	// AnonymousPull controls how clients without an account read public repositories. See
	// compatibility.md#anonymous-reads.
	AnonymousPull AnonymousPull `yaml:"anonymous_pull" env:"ANONYMOUS_PULL"`
	// RequireIndexChildren refuses an index that lists manifests the repository does not have. See
	// compatibility.md#absent-parts.
	RequireIndexChildren bool `yaml:"require_index_children" env:"REQUIRE_INDEX_CHILDREN"`
	// TrustedProxies are addresses or networks (10.1.0.0/16) of the proxies with a trusted X-Forwarded-For header.
	TrustedProxies []string `yaml:"trusted_proxies" env:"TRUSTED_PROXIES"`

	TLS         TLS         `yaml:"tls" envPrefix:"TLS_"`
	Registry    Registry    `yaml:"registry" envPrefix:"REGISTRY_"`
	Token       Token       `yaml:"token" envPrefix:"TOKEN_"`
	OIDC        OIDC        `yaml:"oidc" envPrefix:"OIDC_"`
	Upstream    Upstream    `yaml:"upstream" envPrefix:"UPSTREAM_"`
	Htpasswd    Htpasswd    `yaml:"htpasswd" envPrefix:"HTPASSWD_"`
	LDAP        LDAP        `yaml:"ldap" envPrefix:"LDAP_"`
	Redis       Redis       `yaml:"redis" envPrefix:"REDIS_"`
	Signing     Signing     `yaml:"signing" envPrefix:"SIGNING_"`
	Signatures  Signatures  `yaml:"signatures" envPrefix:"SIGNATURES_"`
	Mirror      Mirror      `yaml:"mirror" envPrefix:"MIRROR_"`
	Webhooks    Webhooks    `yaml:"webhooks" envPrefix:"WEBHOOKS_"`
	PullThrough PullThrough `yaml:"pull_through" envPrefix:"PULL_THROUGH_"`
	Retention   Retention   `yaml:"retention" envPrefix:"RETENTION_"`
	Log         Log         `yaml:"log" envPrefix:"LOG_"`
	Audit       Audit       `yaml:"audit" envPrefix:"AUDIT_"`
	Metrics     Metrics     `yaml:"metrics" envPrefix:"METRICS_"`
	Tracing     Tracing     `yaml:"tracing" envPrefix:"TRACING_"`
	// ShutdownGrace is the time that running requests and tasks have to finish after SIGTERM.
	ShutdownGrace time.Duration `yaml:"shutdown_grace" env:"SHUTDOWN_GRACE"`
}

// The values of TLS.ClientAuth.
const (
	ClientAuthOptional = "optional"
	ClientAuthRequired = "required"
)

// TLS enables HTTPS. The server reloads the files when they change.
type TLS struct {
	CertFile string `yaml:"cert_file" env:"CERT_FILE"` // PEM, with intermediate certificates
	KeyFile  string `yaml:"key_file" env:"KEY_FILE"`   // PEM
	// ClientCAFile contains the PEM certificates of the authorities of client certificates. Empty: clients are not asked
	// for certificates.
	ClientCAFile string `yaml:"client_ca_file" env:"CLIENT_CA_FILE"`
	// ClientAuth is ClientAuthOptional, or ClientAuthRequired to refuse connections without a client certificate.
	ClientAuth string `yaml:"client_auth" env:"CLIENT_AUTH"`
	// ClientIdentity is the field of client certificates that names an account: cn (common name of the subject), or dns,
	// email or uri (subject alternative names). Empty: certificates authenticate no account.
	ClientIdentity string `yaml:"client_identity" env:"CLIENT_IDENTITY"`
	// ClientIdentityPattern is the form of the field, with one * that stands for the name of the account.
	ClientIdentityPattern string `yaml:"client_identity_pattern" env:"CLIENT_IDENTITY_PATTERN"`
	// HSTS is the time for which browsers use only https for the host of the server, on all its ports, after a response
	// (RFC 6797, max-age); 0: the header is not sent.
	HSTS time.Duration `yaml:"hsts" env:"HSTS"`
	// Required prevents a start with settings that let clients send passwords over the network in plain text. See
	// Config.PlainHTTP.
	Required bool `yaml:"required" env:"REQUIRED"`
}

// AnonymousPull is "true", "false" or "token". Booleans in other common spellings are normalized.
type AnonymousPull string

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *AnonymousPull) UnmarshalText(text []byte) error {
	switch word := strings.ToLower(string(text)); word {
	case "token":
		*a = AnonymousPull(word)
	case "true", "t", "1", "yes", "on":
		*a = "true"
	case "false", "f", "0", "no", "off":
		*a = "false"
	default:
		return fmt.Errorf("anonymous_pull: want true, false or token, got %q", text)
	}
	return nil
}

// Registry contains settings of the registry API.
type Registry struct {
	// BasicAuth accepts user names and passwords on /v2/ and /extensions/ in addition to tokens. See
	// compatibility.md#basic-credentials.
	BasicAuth bool `yaml:"basic_auth" env:"BASIC_AUTH"`
}

// Token contains settings of the registry's bearer tokens.
type Token struct {
	// PrivateKeyFile and PublicKeyFile contain an ECDSA P-256 key pair in PEM. Empty: a key is generated and stored
	// in the database.
	PrivateKeyFile string        `yaml:"private_key_file" env:"PRIVATE_KEY_FILE"`
	PublicKeyFile  string        `yaml:"public_key_file" env:"PUBLIC_KEY_FILE"`
	Lifetime       time.Duration `yaml:"lifetime" env:"LIFETIME"`
}

// The values of Upstream.Redirects.
const (
	RedirectsFollow      = "follow"
	RedirectsPassThrough = "pass_through"
)

// Upstream contains settings of the registry at UpstreamURL.
type Upstream struct {
	// Prefix is prepended to repository names on the upstream. It is empty or ends in a slash.
	Prefix   string `yaml:"prefix" env:"PREFIX"`
	Username string `yaml:"username" env:"USERNAME"`
	Password Secret `yaml:"password" env:"PASSWORD"`
	// PasswordFile is a file with the password in its first line, as an alternative to Password. It is read at each use.
	PasswordFile string `yaml:"password_file" env:"PASSWORD_FILE"`
	// Token is a bearer token that is sent with all requests, as an alternative to a user name and a password.
	Token Secret `yaml:"token" env:"TOKEN"`
	// TokenHosts are the HOST[:PORT] of token services, besides the upstream's own host, that may receive the password.
	TokenHosts []string `yaml:"token_hosts" env:"TOKEN_HOSTS"`
	// Redirects controls redirects of blob downloads by the upstream: RedirectsFollow, or RedirectsPassThrough to
	// redirect the client.
	Redirects          string `yaml:"redirects" env:"REDIRECTS"`
	CAFile             string `yaml:"ca_file" env:"CA_FILE"` // PEM certificates to trust in addition to the system's
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify" env:"INSECURE_SKIP_VERIFY"`
	// AdoptOnPull adopts content from the upstream when a client pulls a tag or manifest that is unknown here.
	AdoptOnPull bool `yaml:"adopt_on_pull" env:"ADOPT_ON_PULL"`
	// AdoptPublic makes adopted repositories public. Otherwise they are private.
	AdoptPublic bool `yaml:"adopt_public" env:"ADOPT_PUBLIC"`
	// CompareEvery is the interval between comparisons of each repository with the upstream; 0: never.
	CompareEvery time.Duration `yaml:"compare_every" env:"COMPARE_EVERY"`
	// Follow adopts the changes that a comparison finds. Otherwise they are reported only.
	Follow bool `yaml:"follow" env:"FOLLOW"`
	// KeepManifests creates hidden tags on the upstream for manifests that versions contain and no tag there refers
	// to, so that the upstream's garbage collection keeps them.
	KeepManifests bool `yaml:"keep_manifests" env:"KEEP_MANIFESTS"`
}

// Redis contains settings of the task queue at RedisURL.
type Redis struct {
	Prefix  string `yaml:"prefix" env:"PREFIX"`   // of all keys; separates installations that share one Redis
	CAFile  string `yaml:"ca_file" env:"CA_FILE"` // PEM certificates to trust in addition to the system's, for rediss://
	Cluster bool   `yaml:"cluster" env:"CLUSTER"` // RedisURL is a node of a Redis cluster
}

// Signatures contains settings of signatures that clients upload or remotes provide.
type Signatures struct {
	// UnknownKeys is accept or refuse: for signatures by keys of no signing service. See
	// compatibility.md#uploaded-signatures.
	UnknownKeys string `yaml:"unknown_keys" env:"UNKNOWN_KEYS"`
}

// Mirror contains settings of syncs and of other downloads from remotes.
type Mirror struct {
	// AllowPrivateAddresses are private and loopback addresses or networks (10.1.0.0/16) that remotes may have. See
	// compatibility.md#private-addresses.
	AllowPrivateAddresses []string `yaml:"allow_private_addresses" env:"ALLOW_PRIVATE_ADDRESSES"`
	// AllowPush lets clients push to repositories with a remote. Otherwise such a repository accepts signatures only.
	AllowPush bool `yaml:"allow_push" env:"ALLOW_PUSH"`
	// AllowShrink lets every sync with mirror remove tags when the remote's tag list is empty or lost more than half
	// of its tags.
	AllowShrink bool `yaml:"allow_shrink" env:"ALLOW_SHRINK"`
	// SkipCorrupt lets every sync skip images with content that is missing on the remote or does not match its digest.
	SkipCorrupt bool `yaml:"skip_corrupt" env:"SKIP_CORRUPT"`
	// MinRate is the minimum rate of a download in bytes per second, averaged over each MinRateWindow; 0: no minimum.
	MinRate       int64         `yaml:"min_rate" env:"MIN_RATE"`
	MinRateWindow time.Duration `yaml:"min_rate_window" env:"MIN_RATE_WINDOW"`
	// BlobTimeout limits the download of one blob.
	BlobTimeout time.Duration `yaml:"blob_timeout" env:"BLOB_TIMEOUT"`
	// SyncTimeout limits one sync.
	SyncTimeout time.Duration `yaml:"sync_timeout" env:"SYNC_TIMEOUT"`
}

// Webhooks contains settings of the delivery of events. See docs/webhooks.md.
type Webhooks struct {
	// AllowPrivateAddresses are private and loopback addresses or networks (10.1.0.0/16) that receivers may have.
	AllowPrivateAddresses []string `yaml:"allow_private_addresses" env:"ALLOW_PRIVATE_ADDRESSES"`
	// Parallel is the number of concurrent deliveries of this process; 0: other processes deliver.
	Parallel int `yaml:"parallel" env:"PARALLEL"`
	// Timeout limits one delivery.
	Timeout time.Duration `yaml:"timeout" env:"TIMEOUT"`
	// RetryFor is the age of events that are given up.
	RetryFor time.Duration `yaml:"retry_for" env:"RETRY_FOR"`
	// Backlog is the number of events that wait for one receiver; the oldest others are dropped.
	Backlog int64 `yaml:"backlog" env:"BACKLOG"`
	// Retention is the time for which deliveries are listed after their end.
	Retention time.Duration `yaml:"retention" env:"RETENTION"`
}

// PullThrough contains settings of pull-through caches.
type PullThrough struct {
	// Freshness is the time after which a pull of a cached tag asks the upstream registry again.
	Freshness time.Duration `yaml:"freshness" env:"FRESHNESS"`
	// RemoveMissing removes tags from the cache that the upstream registry does not have any more.
	RemoveMissing bool `yaml:"remove_missing" env:"REMOVE_MISSING"`
	// NewPerMinute is the number of names that a cache looks up in a minute because it does not have them.
	NewPerMinute int `yaml:"new_per_minute" env:"NEW_PER_MINUTE"`
	// Anonymous lets clients without an account make public caches fetch content.
	Anonymous bool `yaml:"anonymous" env:"ANONYMOUS"`
}

// Retention contains the times for which unreferenced data are kept. See compatibility.md#retention.
type Retention struct {
	Uploads time.Duration `yaml:"uploads" env:"UPLOADS"` // unfinished uploads
	Pending time.Duration `yaml:"pending" env:"PENDING"` // blobs that no manifest references
	Orphans time.Duration `yaml:"orphans" env:"ORPHANS"` // content that no version contains any longer
	Tasks   time.Duration `yaml:"tasks" env:"TASKS"`     // finished tasks
}

// Log contains settings of the log on standard error.
type Log struct {
	Level  slog.Level `yaml:"level" env:"LEVEL"`   // debug, info, warn or error
	Format string     `yaml:"format" env:"FORMAT"` // text or json
}

// Audit contains settings of the audit log. See docs/audit.md.
type Audit struct {
	// File is the destination of the entries as lines of JSON: the path of a file, stdout (or -) or stderr. Empty: the
	// entries are records of the log on standard error.
	File string `yaml:"file" env:"FILE"`
	// Retention is the time for which the database keeps entries.
	Retention time.Duration `yaml:"retention" env:"RETENTION"`
}
