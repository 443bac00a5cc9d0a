package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"go.yaml.in/yaml/v3"
)

// Loaded is the result of Load.
type Loaded struct {
	Config Config
	// File is the path of the YAML file that was read, or "" if there was none.
	File string
	// Warnings are problems of the settings that do not prevent a start.
	Warnings []Warning
}

// Warning is a problem of one setting or variable.
type Warning struct {
	Setting string
	Problem string
}

// Load reads the settings: defaults, then a YAML file, then the environment. path names the file; if it is empty, the
// variable COUNTERSIGN_CONFIG does, and without both there is no file. environ lists variables as KEY=value. Load
// fills in settings that depend on others and checks the result. Its errors name each wrong setting or variable.
func Load(path string, environ []string) (Loaded, error) {
	c := Default()
	vars := env.ToMap(environ)
	if path == "" {
		path = vars[configVariable]
	}
	if path != "" {
		if err := c.readFile(path); err != nil {
			return Loaded{}, err
		}
	}
	unknown, err := c.readEnvironment(vars)
	if err != nil {
		return Loaded{}, err
	}
	warnings := append(unknown, c.replaceFormerValues()...)
	if err := errors.Join(c.complete(), c.Tracing.complete(vars)); err != nil {
		return Loaded{}, err
	}
	if err := c.validate(); err != nil {
		return Loaded{}, err
	}
	return Loaded{Config: c, File: path, Warnings: warnings}, nil
}

// Default returns the default settings, without those that Load derives from others.
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
		TLS:                TLS{ClientAuth: ClientAuthOptional, ClientIdentityPattern: "*"},
		Token:              Token{Lifetime: 5 * time.Minute},
		OIDC: OIDC{Issuers: []OIDCIssuer{}, Rules: []OIDCRule{}, Login: OIDCLogin{
			Scopes: []string{"openid", "profile", "email"}, AllowPrivateAddresses: []string{}, NameClaim: "preferred_username",
			GroupsClaim: "groups", Groups: GroupMap{}, AdminGroups: []string{}, Lifetime: 24 * time.Hour,
			Claims: map[string]OIDCValues{},
		}},
		Upstream: Upstream{Redirects: RedirectsFollow, TokenHosts: []string{}, CompareEvery: 5 * time.Minute, Follow: true},
		Signing: Signing{
			Parallel: max(4, 2*runtime.NumCPU()), ScriptTimeout: 300 * time.Second, TokenWait: 5 * time.Second, DefaultService: "countersign",
			Use: UseAssigned, Assign: []string{}, OnPush: []string{}, OnPushFailure: "refuse", OnPushTimeout: 30 * time.Second,
		},
		Htpasswd: Htpasswd{AdminGroups: []string{}},
		LDAP: LDAP{
			StartTLS: true, UserFilter: "(uid={name})", IDAttribute: "entryUUID", NameAttribute: "uid",
			FirstNameAttribute: "givenName", LastNameAttribute: "sn", MailAttribute: "mail", GroupFilter: "(member={dn})",
			Groups: GroupMap{}, AdminGroups: DNList{}, Timeout: 5 * time.Second, Recheck: 5 * time.Minute, MaxOutage: time.Hour,
		},
		Signatures: Signatures{UnknownKeys: "accept"},
		Redis:      Redis{Prefix: "countersign"},
		Mirror: Mirror{
			AllowPrivateAddresses: []string{}, MinRate: 1024, MinRateWindow: time.Minute, BlobTimeout: 12 * time.Hour, SyncTimeout: 24 * time.Hour,
		},
		Webhooks: Webhooks{
			AllowPrivateAddresses: []string{}, Parallel: 64, Timeout: 10 * time.Second, RetryFor: 24 * time.Hour, Backlog: 10_000,
			Retention: 7 * 24 * time.Hour,
		},
		PullThrough:   PullThrough{Freshness: time.Minute, NewPerMinute: 60},
		Retention:     Retention{Uploads: 24 * time.Hour, Pending: 24 * time.Hour, Orphans: 24 * time.Hour, Tasks: 30 * 24 * time.Hour},
		Log:           Log{Level: slog.LevelInfo, Format: "text"},
		Audit:         Audit{Retention: 90 * 24 * time.Hour},
		Tracing:       Tracing{SampleRatio: 1},
		ShutdownGrace: 15 * time.Second,
	}
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

// complete derives the settings that are not set from others.
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
