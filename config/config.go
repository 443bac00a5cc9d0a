// Package config is the one Config value: defaults, then the YAML file, then the environment, checked as a whole.
//
// It reads a file and the environment and nothing else, and imports nothing of this project.
package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"go.yaml.in/yaml/v3"
)

// Secret is a text that does not print itself.
type Secret string

// String hides the secret.
func (Secret) String() string { return "***" }

// GoString hides the secret.
func (Secret) GoString() string { return "***" }

// LogValue hides the secret.
func (Secret) LogValue() slog.Value { return slog.StringValue("***") }

// MarshalText hides the secret.
func (Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }

// Reveal returns the secret.
func (s Secret) Reveal() string { return string(s) }

// Config is everything that can be set. Every key is a YAML key and an environment variable: upper case, dots become underscores,
// COUNTERSIGN_ in front.
type Config struct {
	// Data is the directory of the embedded stores.
	Data string `yaml:"data" env:"DATA"`
	// Listen is the address to listen on: plain HTTP unless TLS is set.
	Listen string `yaml:"listen" env:"LISTEN"`
	// PublicURL is the address that clients type, as the operator writes it; Public is its normal form, whose host is the identity in signatures and the service of
	// tokens. Empty: http://localhost:<port>.
	PublicURL string `yaml:"public_url" env:"PUBLIC_URL"`
	// DatabaseURL is sqlite:<path> or postgres://USER:PASSWORD@HOST:PORT/DATABASE. Empty: SQLite under Data.
	DatabaseURL string `yaml:"database_url" env:"DATABASE_URL"`
	// RedisURL is where the queue is: redis:// or rediss://[USER:PASSWORD@]HOST[:PORT][/DATABASE]. Empty: in the process.
	RedisURL Secret `yaml:"redis_url" env:"REDIS_URL"`
	// UpstreamURL is an existing registry to stand in front of. Empty: embedded storage.
	UpstreamURL string `yaml:"upstream_url" env:"UPSTREAM_URL"`
	// Storage is where embedded storage keeps blobs.
	Storage Storage `yaml:"storage" env:"STORAGE"`
	// AdminPassword sets the password of admin at start. Empty: a first start makes one and prints it once.
	AdminPassword Secret `yaml:"admin_password" env:"ADMIN_PASSWORD"`
	// Workers is how many tasks run at a time in this process, beside those in the slots that keep room for others (package tasks); 0: none, registry and API only.
	Workers int `yaml:"workers" env:"WORKERS"`
	// TaskLease is how long a worker may show no sign of life before its task is another's.
	TaskLease time.Duration `yaml:"task_lease" env:"TASK_LEASE"`
	// PushRepositoryType is the type of the repositories that pushes create: container-push or container (D1).
	PushRepositoryType string `yaml:"push_repository_type" env:"PUSH_REPOSITORY_TYPE"`
	// SignLists signs manifest lists and indexes too (D2).
	SignLists bool `yaml:"sign_lists" env:"SIGN_LISTS"`
	// AnonymousPull says how callers without an account may read public repositories: true, false, or token.
	AnonymousPull AnonymousPull `yaml:"anonymous_pull" env:"ANONYMOUS_PULL"`
	// RequireIndexChildren refuses an index that names absent manifests (D11).
	RequireIndexChildren bool `yaml:"require_index_children" env:"REQUIRE_INDEX_CHILDREN"`
	// TrustedProxies are the proxies in front of the server whose X-Forwarded-For names the client: addresses or networks (10.1.0.0/16).
	TrustedProxies []string `yaml:"trusted_proxies" env:"TRUSTED_PROXIES"`

	TLS        TLS        `yaml:"tls" envPrefix:"TLS_"`
	Registry   Registry   `yaml:"registry" envPrefix:"REGISTRY_"`
	Token      Token      `yaml:"token" envPrefix:"TOKEN_"`
	Upstream   Upstream   `yaml:"upstream" envPrefix:"UPSTREAM_"`
	Redis      Redis      `yaml:"redis" envPrefix:"REDIS_"`
	Signing    Signing    `yaml:"signing" envPrefix:"SIGNING_"`
	Signatures Signatures `yaml:"signatures" envPrefix:"SIGNATURES_"`
	Mirror     Mirror     `yaml:"mirror" envPrefix:"MIRROR_"`
	Retention  Retention  `yaml:"retention" envPrefix:"RETENTION_"`
	Log        Log        `yaml:"log" envPrefix:"LOG_"`
	// ShutdownGrace is how long requests and tasks may go on after a SIGTERM.
	ShutdownGrace time.Duration `yaml:"shutdown_grace" env:"SHUTDOWN_GRACE"`
}

// TLS makes the server speak HTTPS.
type TLS struct {
	CertFile string `yaml:"cert_file" env:"CERT_FILE"` // PEM, with intermediates
	KeyFile  string `yaml:"key_file" env:"KEY_FILE"`   // PEM
}

// AnonymousPull is a boolean in its usual spellings, kept as true or false, or the word token.
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

// Registry is about the registry protocol.
type Registry struct {
	// BasicAuth accepts user names and passwords on /v2/ and /extensions/ beside tokens.
	BasicAuth bool `yaml:"basic_auth" env:"BASIC_AUTH"`
}

// Token is about the registry's bearer tokens.
type Token struct {
	PrivateKeyFile string        `yaml:"private_key_file" env:"PRIVATE_KEY_FILE"` // PEM, ECDSA P-256. Empty: one is made and kept in the database
	PublicKeyFile  string        `yaml:"public_key_file" env:"PUBLIC_KEY_FILE"`   // PEM, of the same key
	Lifetime       time.Duration `yaml:"lifetime" env:"LIFETIME"`
}

// Upstream is about the registry at UpstreamURL.
type Upstream struct {
	// Prefix begins the names there: team/app here is Prefix + team/app there. Empty, or ending in /.
	Prefix   string `yaml:"prefix" env:"PREFIX"`
	Username string `yaml:"username" env:"USERNAME"`
	Password Secret `yaml:"password" env:"PASSWORD"`
	// PasswordFile is the file whose first line is the password, in the place of Password. It is read again each time it is needed.
	PasswordFile string `yaml:"password_file" env:"PASSWORD_FILE"`
	Token        Secret `yaml:"token" env:"TOKEN"` // a bearer token that is good for everything, in the place of a user
	// TokenHosts are the host[:port] of token services beside the upstream's own host that may know the password.
	TokenHosts []string `yaml:"token_hosts" env:"TOKEN_HOSTS"`
	// Redirects of the upstream's: follow, or hand_on to clients, who then get blobs' bytes elsewhere.
	Redirects          string `yaml:"redirects" env:"REDIRECTS"`
	CAFile             string `yaml:"ca_file" env:"CA_FILE"` // PEM certificates to trust beside the system's
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify" env:"INSECURE_SKIP_VERIFY"`
	// AdoptOnPull has a pull of what is not here take it from the upstream, if it is there.
	AdoptOnPull bool `yaml:"adopt_on_pull" env:"ADOPT_ON_PULL"`
	// AdoptPublic lets everybody read what adoption makes; else it is private.
	AdoptPublic bool `yaml:"adopt_public" env:"ADOPT_PUBLIC"`
	// CompareEvery is how often each repository is held against the upstream; 0: never.
	CompareEvery time.Duration `yaml:"compare_every" env:"COMPARE_EVERY"`
	// Follow makes versions here of what others push to the upstream; else it is only reported.
	Follow bool `yaml:"follow" env:"FOLLOW"`
	// KeepManifests has hidden tags keep alive upstream what versions here hold and no tag there.
	KeepManifests bool `yaml:"keep_manifests" env:"KEEP_MANIFESTS"`
}

// Redis is about the queue at RedisURL.
type Redis struct {
	Prefix  string `yaml:"prefix" env:"PREFIX"`   // sets installations on one Redis apart
	CAFile  string `yaml:"ca_file" env:"CA_FILE"` // PEM certificates to trust beside the system's, for rediss://
	Cluster bool   `yaml:"cluster" env:"CLUSTER"` // RedisURL names one node of a cluster
}

// The values of Signing.Use.
const (
	UseAssigned         = "assigned"
	UseRepositoryOwners = "repository_owners"
)

// Signing is about making signatures.
type Signing struct {
	Parallel      int           `yaml:"parallel" env:"PARALLEL"`             // signatures that one task makes at a time
	ScriptTimeout time.Duration `yaml:"script_timeout" env:"SCRIPT_TIMEOUT"` // for one call of a signing script
	TokenWait     time.Duration `yaml:"token_wait" env:"TOKEN_WAIT"`         // a signature waits so long for a PKCS #11 token that is away
	WorkDir       string        `yaml:"work_dir" env:"WORK_DIR"`             // where scripts get their directories. Empty: under Data
	// DefaultService is the name of the signing service that a first start on SQLite makes, with a key of its own. Empty: none is made.
	DefaultService string `yaml:"default_service" env:"DEFAULT_SERVICE"`
	// Use says who may use signing services: assigned (administrators, and repositories that an administrator or a pattern assigned a service to) or
	// repository_owners (everybody who may modify a repository chooses any service for it).
	Use string `yaml:"use" env:"USE"`
	// Assign assigns signing services to repositories: PATTERN=SERVICE as for OnPush, but nothing is signed unless somebody asks.
	Assign []string `yaml:"assign" env:"ASSIGN"`
	// OnPush are the repositories that sign on push beside those that say so themselves: PATTERN=SERVICE, where a pattern is a repository's name, or
	// ends with * and stands for all names that begin so. The first that fits counts.
	OnPush []string `yaml:"on_push" env:"ON_PUSH"`
	// OnPushFailure is what becomes of a push that cannot be signed: refuse, or accept, and a task signs it later.
	OnPushFailure string        `yaml:"on_push_failure" env:"ON_PUSH_FAILURE"`
	OnPushTimeout time.Duration `yaml:"on_push_timeout" env:"ON_PUSH_TIMEOUT"` // a push waits for its signatures at most so long
}

// ServiceOnPush returns the name of the signing service with which OnPush has a repository sign on push; empty: it has not.
func (s Signing) ServiceOnPush(repository string) string { return firstFit(s.OnPush, repository) }

// AssignedServices returns the names of the signing services that OnPush and Assign assign to a repository, in that order.
func (s Signing) AssignedServices(repository string) []string {
	var names []string
	for _, rules := range [][]string{s.OnPush, s.Assign} {
		if name := firstFit(rules, repository); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// firstFit returns the service of the first rule, PATTERN=SERVICE, that fits a repository's name; empty when none does.
func firstFit(rules []string, repository string) string {
	for _, rule := range rules {
		pattern, service, _ := strings.Cut(rule, "=")
		start, open := strings.CutSuffix(pattern, "*")
		if pattern == repository || open && strings.HasPrefix(repository, start) {
			return service
		}
	}
	return ""
}

// Signatures is about signatures that come from outside.
type Signatures struct {
	UnknownKeys string `yaml:"unknown_keys" env:"UNKNOWN_KEYS"` // accept or refuse signatures by keys that the server does not know (D6)
}

// Mirror is about the remotes that repositories are mirrored from.
type Mirror struct {
	// AllowPrivateAddresses are the private and loopback addresses that remotes may be on: addresses or networks (10.1.0.0/16). All others are refused
	// (D20).
	AllowPrivateAddresses []string `yaml:"allow_private_addresses" env:"ALLOW_PRIVATE_ADDRESSES"`
	// AllowPush lets clients push to mirrored repositories; else a repository with a remote takes signatures alone.
	AllowPush bool `yaml:"allow_push" env:"ALLOW_PUSH"`
	// AllowShrink lets every sync with mirror remove tags when the remote's tag list is empty or lost more than half of its tags.
	AllowShrink bool `yaml:"allow_shrink" env:"ALLOW_SHRINK"`
	// SkipCorrupt lets every sync leave out images whose content the remote does not have, or has with other bytes.
	SkipCorrupt bool `yaml:"skip_corrupt" env:"SKIP_CORRUPT"`
	// MinRate is the least speed of a download, in bytes per second, averaged over each MinRateWindow of waiting for bytes; 0: none.
	MinRate       int64         `yaml:"min_rate" env:"MIN_RATE"`
	MinRateWindow time.Duration `yaml:"min_rate_window" env:"MIN_RATE_WINDOW"`
	// BlobTimeout is how long the download of one blob may take in all.
	BlobTimeout time.Duration `yaml:"blob_timeout" env:"BLOB_TIMEOUT"`
	// SyncTimeout is how long one sync may take.
	SyncTimeout time.Duration `yaml:"sync_timeout" env:"SYNC_TIMEOUT"`
}

// Retention says how long things are kept that nothing refers to (D19).
type Retention struct {
	Uploads time.Duration `yaml:"uploads" env:"UPLOADS"` // unfinished uploads
	Pending time.Duration `yaml:"pending" env:"PENDING"` // blobs that no manifest has named yet
	Orphans time.Duration `yaml:"orphans" env:"ORPHANS"` // content that is in no version any more
	Tasks   time.Duration `yaml:"tasks" env:"TASKS"`     // tasks that have ended
}

// Log is about what the server says on standard error.
type Log struct {
	Level  slog.Level `yaml:"level" env:"LEVEL"`   // debug, info, warn or error
	Format string     `yaml:"format" env:"FORMAT"` // text or json
}

// Default returns what holds where nothing is set.
func Default() Config {
	return Config{
		Data:               "./data",
		Listen:             "127.0.0.1:24817",
		Workers:            runtime.NumCPU(),
		TaskLease:          30 * time.Second,
		PushRepositoryType: "container-push",
		AnonymousPull:      "true",
		Registry:           Registry{BasicAuth: true},
		TrustedProxies:     []string{},
		Token:              Token{Lifetime: 5 * time.Minute},
		Upstream:           Upstream{Redirects: "follow", TokenHosts: []string{}, CompareEvery: 5 * time.Minute, Follow: true},
		Signing:            Signing{Parallel: max(4, 2*runtime.NumCPU()), ScriptTimeout: 300 * time.Second, TokenWait: 5 * time.Second, DefaultService: "countersign", Use: UseAssigned, Assign: []string{}, OnPush: []string{}, OnPushFailure: "refuse", OnPushTimeout: 30 * time.Second},
		Signatures:         Signatures{UnknownKeys: "accept"},
		Redis:              Redis{Prefix: "countersign"},
		Mirror:             Mirror{AllowPrivateAddresses: []string{}, MinRate: 1024, MinRateWindow: time.Minute, BlobTimeout: 12 * time.Hour, SyncTimeout: 24 * time.Hour},
		Retention:          Retention{Uploads: 24 * time.Hour, Pending: 24 * time.Hour, Orphans: 24 * time.Hour, Tasks: 30 * 24 * time.Hour},
		Log:                Log{Level: slog.LevelInfo, Format: "text"},
		ShutdownGrace:      15 * time.Second,
	}
}

const prefix = "COUNTERSIGN_"

// Load reads the file, if one is named by path or else by COUNTERSIGN_CONFIG, and the environment (a list of KEY=value), and fills in
// what depends on other settings. An error names the setting that is wrong.
func Load(path string, environ []string) (Config, error) {
	c := Default()
	vars := env.ToMap(environ)
	if path == "" {
		path = vars[prefix+"CONFIG"]
	}
	if path != "" {
		if err := c.readFile(path); err != nil {
			return Config{}, err
		}
	}
	if err := readEnvironment(&c, vars); err != nil {
		return Config{}, err
	}
	if name, set := vars[prefix+"SIGNING_DEFAULT_SERVICE"]; set { // the library passes over variables that are empty
		c.Signing.DefaultService = name
	}
	if err := c.complete(); err != nil {
		return Config{}, err
	}
	return c, c.validate()
}

// ofKubernetes are the names of variables that Kubernetes makes for a service which is called countersign.
var ofKubernetes = regexp.MustCompile(`^COUNTERSIGN_(SERVICE_|PORT($|_))`)

// Unknown returns the names in an environment that look like settings and are none, in order.
func Unknown(environ []string) ([]string, error) {
	known, err := env.GetFieldParamsWithOptions(&Config{}, env.Options{Prefix: prefix})
	if err != nil {
		return nil, err
	}
	var unknown []string
	for name := range env.ToMap(environ) {
		if strings.HasPrefix(name, prefix) && name != prefix+"CONFIG" && !ofKubernetes.MatchString(name) && !slices.ContainsFunc(known, func(f env.FieldParams) bool { return f.Key == name }) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return unknown, nil
}

func (c *Config) readFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("configuration file: %w", err)
	}
	defer func() { _ = f.Close() }()
	d := yaml.NewDecoder(f)
	d.KnownFields(true)
	if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	return nil
}

// complete fills in what follows from other settings.
func (c *Config) complete() error {
	data, err := filepath.Abs(c.Data)
	if err != nil {
		return fmt.Errorf("data: %w", err)
	}
	c.Data = data
	if c.DatabaseURL == "" {
		c.DatabaseURL = "sqlite:" + filepath.Join(data, "countersign.db")
	}
	if c.Storage.Driver == "" {
		c.Storage = Storage{Driver: "filesystem", Parameters: map[string]any{"rootdirectory": filepath.Join(data, "storage")}}
	}
	if c.Signing.WorkDir == "" {
		c.Signing.WorkDir = filepath.Join(data, "work")
	}
	if c.PublicURL == "" {
		scheme := "http"
		if c.TLS.CertFile != "" {
			scheme = "https"
		}
		_, port, err := net.SplitHostPort(c.Listen)
		if err != nil {
			return fmt.Errorf("listen: want host:port, got %q", c.Listen)
		}
		c.PublicURL = scheme + "://localhost:" + port
	}
	c.PublicURL = strings.TrimRight(c.PublicURL, "/")
	return nil
}

func (c Config) validate() error {
	_, publicErr := normalizePublicURL(c.PublicURL)
	_, mirrorErr := c.Mirror.Prefixes()
	_, proxiesErr := c.Proxies()
	return errors.Join(
		mirrorErr, publicErr, proxiesErr,
		check(c.PushRepositoryType == "container-push" || c.PushRepositoryType == "container",
			"push_repository_type: want container-push or container, got %q", c.PushRepositoryType),
		check(c.Signatures.UnknownKeys == "accept" || c.Signatures.UnknownKeys == "refuse",
			"signatures.unknown_keys: want accept or refuse, got %q", c.Signatures.UnknownKeys),
		check(prefixForm.MatchString(c.Upstream.Prefix),
			"upstream.prefix: want a repository's name that ends in /, got %q", c.Upstream.Prefix),
		check(c.Upstream.Redirects == "follow" || c.Upstream.Redirects == "hand_on", "upstream.redirects: want follow or hand_on, got %q", c.Upstream.Redirects),
		check(c.Upstream.Token == "" || c.Upstream.Username == "", "upstream: either token, or username and password"),
		check(c.Upstream.Password == "" || c.Upstream.PasswordFile == "", "upstream: either password or password_file"),
		check(!slices.ContainsFunc(c.Upstream.TokenHosts, func(host string) bool { return !hostForm.MatchString(host) }),
			"upstream.token_hosts: want host[:port], got %q", c.Upstream.TokenHosts),
		check(c.Upstream.CompareEvery == 0 || c.Upstream.CompareEvery >= time.Second, "upstream.compare_every: want 0, or 1s or more, got %v", c.Upstream.CompareEvery),
		check(c.Mirror.MinRate >= 0, "mirror.min_rate: want 0 or more bytes per second, got %d", c.Mirror.MinRate),
		check(c.Mirror.MinRateWindow >= time.Second && c.Mirror.MinRateWindow <= time.Hour, "mirror.min_rate_window: want 1s to 1h, got %v", c.Mirror.MinRateWindow),
		check(c.Mirror.BlobTimeout >= time.Second, "mirror.blob_timeout: want 1s or more, got %v", c.Mirror.BlobTimeout),
		check(c.Mirror.SyncTimeout >= time.Second, "mirror.sync_timeout: want 1s or more, got %v", c.Mirror.SyncTimeout),
		check(c.Workers >= 0, "workers: want 0 or more, got %d", c.Workers),
		check(c.TaskLease >= time.Second, "task_lease: want 1s or more, got %v", c.TaskLease),
		check(c.Signing.Parallel >= 1, "signing.parallel: want 1 or more, got %d", c.Signing.Parallel),
		check(c.Signing.Use == UseAssigned || c.Signing.Use == UseRepositoryOwners,
			"signing.use: want %s or %s, got %q", UseAssigned, UseRepositoryOwners, c.Signing.Use),
		checkRules("signing.assign", c.Signing.Assign),
		checkRules("signing.on_push", c.Signing.OnPush),
		check(c.Signing.OnPushFailure == "refuse" || c.Signing.OnPushFailure == "accept",
			"signing.on_push_failure: want refuse or accept, got %q", c.Signing.OnPushFailure),
		check(c.Signing.OnPushTimeout > 0, "signing.on_push_timeout: want more than 0, got %v", c.Signing.OnPushTimeout),
		check(c.Signing.ScriptTimeout > 0, "signing.script_timeout: want more than 0, got %v", c.Signing.ScriptTimeout),
		check(c.Signing.TokenWait >= 0, "signing.token_wait: want 0 or more, got %v", c.Signing.TokenWait),
		check(c.Token.Lifetime >= time.Minute && c.Token.Lifetime <= maxTokenLifetime, "token.lifetime: want 1m to 24h, got %v", c.Token.Lifetime),
		check((c.Token.PrivateKeyFile == "") == (c.Token.PublicKeyFile == ""), "token: private_key_file and public_key_file go together"),
		check((c.TLS.CertFile == "") == (c.TLS.KeyFile == ""), "tls: cert_file and key_file go together"),
		check(c.Log.Format == "text" || c.Log.Format == "json", "log.format: want text or json, got %q", c.Log.Format),
		check(min(c.Retention.Uploads, c.Retention.Pending, c.Retention.Orphans, c.Retention.Tasks) >= time.Minute, "retention: want 1m or more of each"),
	)
}

// maxTokenLifetime bounds token.lifetime: a stolen token is of no use for longer, and clients renew their tokens without help.
const maxTokenLifetime = 24 * time.Hour

// prefixForm is the beginning of a repository's name, up to a slash (OCI distribution specification 1.1, "Pulling manifests").
var prefixForm = regexp.MustCompile(`^([a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*/)*$`)

// hostForm is a host, and a port perhaps, as in a URL.
var hostForm = regexp.MustCompile(`^([a-zA-Z0-9.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?$`)

// checkRules checks a list of PATTERN=SERVICE.
func checkRules(key string, rules []string) error {
	return check(!slices.ContainsFunc(rules, func(rule string) bool {
		pattern, service, ok := strings.Cut(rule, "=")
		return !ok || pattern == "" || service == "" || strings.Contains(strings.TrimSuffix(pattern, "*"), "*")
	}), "%s: want PATTERN=SERVICE, with a * at the pattern's end at most, got %q", key, rules)
}

func check(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}
