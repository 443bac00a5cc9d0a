package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// maxTokenLifetime bounds token.lifetime. It limits the use of a stolen token; clients renew their tokens on their own.
const maxTokenLifetime = 24 * time.Hour

// prefixForm is the start of a repository name up to a slash (OCI distribution specification 1.1, "Pulling manifests").
var prefixForm = regexp.MustCompile(`^([a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*/)*$`)

// hostForm is HOST[:PORT] as in a URL.
var hostForm = regexp.MustCompile(`^([a-zA-Z0-9.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?$`)

// validate returns the errors of all settings, joined.
func (c Config) validate() error {
	_, publicErr := normalizePublicURL(c.PublicURL)
	_, mirrorErr := c.Mirror.Prefixes()
	_, proxiesErr := c.Proxies()
	return errors.Join(
		mirrorErr, publicErr, proxiesErr,
		oneOf("push_repository_type", c.PushRepositoryType, "container-push", "container"),
		oneOf("signatures.unknown_keys", c.Signatures.UnknownKeys, "accept", "refuse"),
		c.Upstream.validate(),
		c.Mirror.validate(),
		c.Webhooks.validate(),
		check(c.PullThrough.Freshness >= 0, "pull_through.freshness: want 0 or more, got %v", c.PullThrough.Freshness),
		check(c.PullThrough.NewPerMinute >= 1, "pull_through.new_per_minute: want 1 or more, got %d", c.PullThrough.NewPerMinute),
		c.Htpasswd.validate(),
		c.LDAP.validate(),
		c.Metrics.validate(),
		c.Tracing.validate(),
		check(c.Workers >= 0, "workers: want 0 or more, got %d", c.Workers),
		check(c.TaskLease >= time.Second, "task_lease: want 1s or more, got %v", c.TaskLease),
		c.Signing.validate(),
		c.OIDC.validate(),
		check(c.Token.Lifetime >= time.Minute && c.Token.Lifetime <= maxTokenLifetime,
			"token.lifetime: want 1m to 24h, got %v", c.Token.Lifetime),
		check((c.Token.PrivateKeyFile == "") == (c.Token.PublicKeyFile == ""),
			"token: set both private_key_file and public_key_file, or neither"),
		c.TLS.validate(c.Public().Scheme),
		oneOf("log.format", c.Log.Format, "text", "json"),
		check(min(c.Retention.Uploads, c.Retention.Pending, c.Retention.Orphans, c.Retention.Tasks) >= time.Minute,
			"retention: want 1m or more for each setting"),
		check(c.Audit.Retention >= time.Minute, "audit.retention: want 1m or more, got %v", c.Audit.Retention),
	)
}

// validate returns the errors of the TLS settings of a server with a scheme of its public URL.
func (t TLS) validate(publicScheme string) error {
	return errors.Join(
		check((t.CertFile == "") == (t.KeyFile == ""), "tls: set both cert_file and key_file, or neither"),
		oneOf("tls.client_auth", t.ClientAuth, ClientAuthOptional, ClientAuthRequired),
		check(t.ClientCAFile == "" || t.CertFile != "", "tls.client_ca_file: set cert_file and key_file too"),
		check(t.ClientAuth == ClientAuthOptional || t.ClientCAFile != "", "tls.client_auth: set client_ca_file too"),
		check(slices.Contains([]string{"", "cn", "dns", "email", "uri"}, t.ClientIdentity),
			"tls.client_identity: want cn, dns, email or uri, got %q", t.ClientIdentity),
		check(t.ClientIdentity == "" || t.ClientCAFile != "", "tls.client_identity: set client_ca_file too"),
		check(strings.Count(t.ClientIdentityPattern, "*") == 1,
			"tls.client_identity_pattern: want one * for the name of the account, like *@example.com, got %q", t.ClientIdentityPattern),
		check(t.HSTS == 0 || t.HSTS >= time.Second, "tls.hsts: want 0, or 1s or more, got %v", t.HSTS),
		check(t.HSTS == 0 || t.CertFile != "" || publicScheme == "https", "tls.hsts: set cert_file and key_file, or a public_url with https"),
	)
}

func (u Upstream) validate() error {
	return errors.Join(
		check(prefixForm.MatchString(u.Prefix), "upstream.prefix: want the start of a repository name that ends in /, got %q", u.Prefix),
		oneOf("upstream.redirects", u.Redirects, RedirectsFollow, RedirectsPassThrough),
		check(u.Token == "" || u.Username == "", "upstream: set either token, or username and password"),
		check(u.Password == "" || u.PasswordFile == "", "upstream: set either password or password_file"),
		check(!slices.ContainsFunc(u.TokenHosts, func(host string) bool { return !hostForm.MatchString(host) }),
			"upstream.token_hosts: want host[:port], got %q", u.TokenHosts),
		check(u.CompareEvery == 0 || u.CompareEvery >= time.Second, "upstream.compare_every: want 0, or 1s or more, got %v", u.CompareEvery),
	)
}

func (m Mirror) validate() error {
	return errors.Join(
		check(m.MinRate >= 0, "mirror.min_rate: want 0 or more bytes per second, got %d", m.MinRate),
		check(m.MinRateWindow >= time.Second && m.MinRateWindow <= time.Hour, "mirror.min_rate_window: want 1s to 1h, got %v", m.MinRateWindow),
		check(m.BlobTimeout >= time.Second, "mirror.blob_timeout: want 1s or more, got %v", m.BlobTimeout),
		check(m.SyncTimeout >= time.Second, "mirror.sync_timeout: want 1s or more, got %v", m.SyncTimeout),
	)
}

func (w Webhooks) validate() error {
	_, addressErr := w.Prefixes()
	return errors.Join(
		addressErr,
		check(w.Parallel >= 0, "webhooks.parallel: want 0 or more, got %d", w.Parallel),
		check(w.Timeout >= time.Second && w.Timeout <= time.Minute, "webhooks.timeout: want 1s to 1m, got %v", w.Timeout),
		check(w.RetryFor >= time.Minute, "webhooks.retry_for: want 1m or more, got %v", w.RetryFor),
		check(w.Backlog >= 1, "webhooks.backlog: want 1 or more, got %d", w.Backlog),
		check(w.Retention >= time.Minute, "webhooks.retention: want 1m or more, got %v", w.Retention),
	)
}

func (s Signing) validate() error {
	return errors.Join(
		check(s.Parallel >= 1, "signing.parallel: want 1 or more, got %d", s.Parallel),
		oneOf("signing.use", s.Use, UseAssigned, UseRepositoryOwners),
		checkRules("signing.assign", s.Assign),
		checkRules("signing.on_push", s.OnPush),
		oneOf("signing.on_push_failure", s.OnPushFailure, "refuse", "accept"),
		check(s.OnPushTimeout > 0, "signing.on_push_timeout: want more than 0, got %v", s.OnPushTimeout),
		check(s.ScriptTimeout > 0, "signing.script_timeout: want more than 0, got %v", s.ScriptTimeout),
		check(s.TokenWait >= 0, "signing.token_wait: want 0 or more, got %v", s.TokenWait),
	)
}

// oneOf returns an error if the value of a setting is neither of two.
func oneOf(setting, value, first, second string) error {
	return check(value == first || value == second, "%s: want %s or %s, got %q", setting, first, second, value)
}

// check returns an error of the format unless ok.
func check(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}
