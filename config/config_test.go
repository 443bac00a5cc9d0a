package config_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/config"
)

// write makes a configuration file.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "countersign.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, path string, environ ...string) config.Config {
	t.Helper()
	c, err := config.Load(path, environ)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTheExampleHasEveryKeyAtItsDefault(t *testing.T) {
	t.Parallel()
	const example = "../deploy/examples/countersign.yaml"
	if diff := cmp.Diff(load(t, ""), load(t, example)); diff != "" {
		t.Errorf("the example is not the default (-default +example):\n%s", diff)
	}
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys(reflect.TypeFor[config.Config]()) {
		if !strings.Contains(string(text), key+":") {
			t.Errorf("the example lacks %s", key)
		}
	}
}

func TestUnknownVariables(t *testing.T) {
	t.Parallel()
	got, err := config.Unknown([]string{
		"COUNTERSIGN_UPSTREM_URL=x", "COUNTERSIGN_UPSTREAM_URL=x", "COUNTERSIGN_CONFIG=x", "COUNTERSIGN_DATA=", "COUNTERSIGN_SIGNING_ON_PUSH=x", "COUNTERSIGN_STORAGE=filesystem:/x", "HOME=/", "COUNTERSIGNED=x",
		"COUNTERSIGN_PORT=tcp://10.0.0.1:24817", "COUNTERSIGN_PORT_24817_TCP_ADDR=10.0.0.1", "COUNTERSIGN_SERVICE_HOST=10.0.0.1", "COUNTERSIGN_=x",
	})
	if want := []string{"COUNTERSIGN_", "COUNTERSIGN_UPSTREM_URL"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}

// keys returns the YAML keys of a struct and of the structs in it.
func keys(t reflect.Type) (found []string) {
	for f := range t.Fields() {
		found = append(found, f.Tag.Get("yaml"))
		if f.Type.Kind() == reflect.Struct && f.Type != reflect.TypeFor[config.Storage]() {
			found = append(found, keys(f.Type)...)
		}
	}
	return found
}

func TestEnvironmentBeatsTheFile(t *testing.T) {
	t.Parallel()
	path := write(t, "listen: 127.0.0.1:1\nworkers: 3\nsigning: {script_timeout: 5s}\ntls: {cert_file: a, key_file: b}\n")
	c := load(t, "", "COUNTERSIGN_CONFIG="+path, "COUNTERSIGN_LISTEN=127.0.0.1:2", "COUNTERSIGN_SIGNING_SCRIPT_TIMEOUT=7s",
		"COUNTERSIGN_UPSTREAM_PASSWORD=secret", "COUNTERSIGN_ANONYMOUS_PULL=false", "COUNTERSIGN_STORAGE=filesystem:/blobs", "COUNTERSIGN_LOG_LEVEL=warn", "LISTEN=x")
	got := []any{c.Listen, c.Workers, c.Signing.ScriptTimeout.String(), c.PublicURL, c.Public().Host, c.Upstream.Password.Reveal(), c.AnonymousPull, c.Storage.Parameters["rootdirectory"], c.Log.Level}
	want := []any{"127.0.0.1:2", 3, "7s", "https://localhost:2", "localhost:2", "secret", config.AnonymousPull("false"), "/blobs", slog.LevelWarn}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestUpstream(t *testing.T) {
	t.Parallel()
	c := load(t, "", "COUNTERSIGN_UPSTREAM_PREFIX=company/team__a/x-y/", "COUNTERSIGN_UPSTREAM_TOKEN=hunter2", "COUNTERSIGN_UPSTREAM_REDIRECTS=hand_on",
		"COUNTERSIGN_UPSTREAM_TOKEN_HOSTS=auth.docker.io,gitlab.example:8443,[::1]:5001")
	got := []any{c.Upstream.Prefix, c.Upstream.Token.Reveal(), c.Upstream.Redirects, c.Upstream.TokenHosts}
	want := []any{"company/team__a/x-y/", "hunter2", "hand_on", []string{"auth.docker.io", "gitlab.example:8443", "[::1]:5001"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if text := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(text, "hunter2") {
		t.Errorf("a token prints: %s", text)
	}
}

func TestTrustedProxies(t *testing.T) {
	t.Parallel()
	got, err := load(t, "", "COUNTERSIGN_TRUSTED_PROXIES=10.1.2.3/16, ::1,::ffff:192.0.2.1,::ffff:198.51.100.7/120").Proxies()
	if diff := cmp.Diff("[10.1.0.0/16 ::1/128 192.0.2.1/32 198.51.100.0/24]", fmt.Sprint(got)); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestDefaultService(t *testing.T) {
	t.Parallel()
	off := write(t, "signing: {default_service: ''}\n")
	for name, tt := range map[string]struct {
		path    string
		environ []string
		want    string
	}{
		"nothing said":               {"", nil, "countersign"},
		"off in the file":            {off, nil, ""},
		"off in the environment":     {"", []string{"COUNTERSIGN_SIGNING_DEFAULT_SERVICE="}, ""},
		"another name":               {"", []string{"COUNTERSIGN_SIGNING_DEFAULT_SERVICE=ours"}, "ours"},
		"on again, whatever's there": {off, []string{"COUNTERSIGN_SIGNING_DEFAULT_SERVICE=ours"}, "ours"},
	} {
		if got := load(t, tt.path, tt.environ...).Signing.DefaultService; got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestStorageBlock(t *testing.T) {
	t.Parallel()
	c := load(t, write(t, "storage:\n  s3:\n    bucket: blobs\n    region: eu\n"))
	if diff := cmp.Diff(config.Storage{Driver: "s3", Parameters: map[string]any{"bucket": "blobs", "region": "eu"}}, c.Storage); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhatFollows(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := load(t, "", "COUNTERSIGN_DATA="+dir, "COUNTERSIGN_PUBLIC_URL=https://registry.example/")
	if c.DatabaseURL != "sqlite:"+dir+"/countersign.db" || c.Storage.Parameters["rootdirectory"] != dir+"/storage" || c.Signing.WorkDir != dir+"/work" || c.PublicURL != "https://registry.example" {
		t.Errorf("%+v", c)
	}
}

// TestAssignedServices proves that the first rule of each list that fits a name counts, and that signing on push comes before other assignments.
func TestAssignedServices(t *testing.T) {
	t.Parallel()
	c := load(t, "", "COUNTERSIGN_SIGNING_ON_PUSH=prod/test=dev,prod/*=release", "COUNTERSIGN_SIGNING_ASSIGN=prod/test=qa,prod/*=release,team/app=dev")
	for name, want := range map[string][]string{
		"prod/test": {"dev", "qa"}, "prod/app": {"release"}, "team/app": {"dev"}, "team/app2": nil, "production/app": nil, "prod": nil,
	} {
		if got := c.Signing.AssignedServices(name); !cmp.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if c := load(t, ""); c.Signing.Use != config.UseAssigned || c.Signing.AssignedServices("prod/app") != nil {
		t.Errorf("by default: %+v", c.Signing)
	}
}

func TestWrongSettings(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		file    string
		environ string
		says    string
	}{
		"an unknown key":          {"data: x\nlisten_on: y\n", "", "line 2"},
		"an unknown key inside":   {"tls:\n  cert: x\n", "", "line 2"},
		"a wrong type":            {"workers: many\n", "", "line 1"},
		"two storage drivers":     {"storage: {a: {}, b: {}}\n", "", "want one driver"},
		"a short storage":         {"storage: s3\n", "", "filesystem:<dir>"},
		"no YAML":                 {"{", "", "countersign.yaml"},
		"a public URL of a path":  {"", "COUNTERSIGN_PUBLIC_URL=https://x/registry", "public_url"},
		"a public URL of a user":  {"", "COUNTERSIGN_PUBLIC_URL=https://me@x", "public_url"},
		"a public URL of nothing": {"", "COUNTERSIGN_PUBLIC_URL=registry.example", "public_url"},
		"an address":              {"", "COUNTERSIGN_LISTEN=24817", "listen"},
		"a repository type":       {"", "COUNTERSIGN_PUSH_REPOSITORY_TYPE=file", "push_repository_type"},
		"a prefix without its /":  {"", "COUNTERSIGN_UPSTREAM_PREFIX=company", "upstream.prefix"},
		"a prefix of nothing":     {"", "COUNTERSIGN_UPSTREAM_PREFIX=/", "upstream.prefix"},
		"a prefix that goes up":   {"", "COUNTERSIGN_UPSTREAM_PREFIX=company/../", "upstream.prefix"},
		"a prefix in capitals":    {"", "COUNTERSIGN_UPSTREAM_PREFIX=Company/", "upstream.prefix"},
		"a prefix with a line":    {"upstream: {prefix: \"a/\\nb/\"}\n", "", "upstream.prefix"},
		"redirects":               {"", "COUNTERSIGN_UPSTREAM_REDIRECTS=ignore", "upstream.redirects"},
		"two kinds of account":    {"upstream: {token: x, username: y}\n", "", "upstream: either token"},
		"a URL of tokens":         {"", "COUNTERSIGN_UPSTREAM_TOKEN_HOSTS=good.example,https://auth.example", "upstream.token_hosts"},
		"a host with a path":      {"", "COUNTERSIGN_UPSTREAM_TOKEN_HOSTS=auth.example/token", "upstream.token_hosts"},
		"unknown keys":            {"", "COUNTERSIGN_SIGNATURES_UNKNOWN_KEYS=maybe", "signatures.unknown_keys"},
		"fewer workers than none": {"", "COUNTERSIGN_WORKERS=-1", "workers"},
		"no signature at a time":  {"", "COUNTERSIGN_SIGNING_PARALLEL=0", "signing.parallel"},
		"a rule of use":           {"", "COUNTERSIGN_SIGNING_USE=owners", `signing.use: want assigned or repository_owners, got "owners"`},
		"no service":              {"", "COUNTERSIGN_SIGNING_ASSIGN=team/*", "signing.assign: want PATTERN=SERVICE"},
		"a star in the middle":    {"", "COUNTERSIGN_SIGNING_ASSIGN=team/*/app=release", "signing.assign"},
		"no time for a script":    {"", "COUNTERSIGN_SIGNING_SCRIPT_TIMEOUT=0s", "signing.script_timeout"},
		"less than no wait":       {"", "COUNTERSIGN_SIGNING_TOKEN_WAIT=-1s", "signing.token_wait"},
		"a proxy's name":          {"", "COUNTERSIGN_TRUSTED_PROXIES=10.0.0.1,proxy.example", `trusted_proxies: want addresses or networks like 10.1.0.0/16, got "proxy.example"`},
		"a token's life":          {"", "COUNTERSIGN_TOKEN_LIFETIME=1s", "token.lifetime"},
		"a token that outlives":   {"", "COUNTERSIGN_TOKEN_LIFETIME=24h1s", "token.lifetime: want 1m to 24h, got 24h0m1s"},
		"half a key pair":         {"", "COUNTERSIGN_TOKEN_PRIVATE_KEY_FILE=x", "token"},
		"half of TLS":             {"", "COUNTERSIGN_TLS_CERT_FILE=x", "tls"},
		"a log's form":            {"", "COUNTERSIGN_LOG_FORMAT=xml", "log.format"},
		"a log's level":           {"", "COUNTERSIGN_LOG_LEVEL=loud", `COUNTERSIGN_LOG_LEVEL: want debug, info, warn or error, got "loud"`},
		"a boolean":               {"", "COUNTERSIGN_REGISTRY_BASIC_AUTH=perhaps", `COUNTERSIGN_REGISTRY_BASIC_AUTH: want true or false, got "perhaps"`},
		"a number":                {"", "COUNTERSIGN_WORKERS=many", `COUNTERSIGN_WORKERS: want a whole number, got "many"`},
		"a number without a unit": {"", "COUNTERSIGN_TOKEN_LIFETIME=5", `COUNTERSIGN_TOKEN_LIFETIME: want a duration like 90s, 5m or 24h, got "5"`},
		"anonymous pulls":         {"", "COUNTERSIGN_ANONYMOUS_PULL=maybe", `COUNTERSIGN_ANONYMOUS_PULL: want true, false or token, got "maybe"`},
		"anonymous pulls, a file": {"anonymous_pull: maybe\n", "", `anonymous_pull: want true, false or token, got "maybe"`},
		"an unknown storage":      {"", "COUNTERSIGN_STORAGE=s3:bucket", `COUNTERSIGN_STORAGE: want filesystem:<dir>, got "s3:bucket"`},
		"no retention":            {"", "COUNTERSIGN_RETENTION_TASKS=0s", "retention"},
		"a duration":              {"", "COUNTERSIGN_RETENTION_TASKS=month", "COUNTERSIGN_RETENTION_TASKS: want a duration"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := ""
			if tt.file != "" {
				path = write(t, tt.file)
			}
			if _, err := config.Load(path, []string{tt.environ}); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Load = %v, want an error about %q", err, tt.says)
			}
		})
	}
	if _, err := config.Load("/no/such/file", nil); err == nil {
		t.Error("a file that is not there was read")
	}
	_, err := config.Load("", []string{"COUNTERSIGN_WORKERS=many", "COUNTERSIGN_TASK_LEASE=long"})
	if err == nil || !strings.Contains(err.Error(), "COUNTERSIGN_WORKERS: ") || !strings.Contains(err.Error(), "COUNTERSIGN_TASK_LEASE: ") {
		t.Errorf("two wrong variables: %v", err)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	c := load(t, "", "COUNTERSIGN_ADMIN_PASSWORD=hunter2", "COUNTERSIGN_UPSTREAM_PASSWORD=hunter2")
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", slog.Any("password", c.AdminPassword))
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s", c, c, c, c.AdminPassword), string(encoded), log.String()} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("a secret prints: %s", text)
		}
	}
	if c.AdminPassword.Reveal() != "hunter2" {
		t.Error("a secret cannot be revealed")
	}
}
