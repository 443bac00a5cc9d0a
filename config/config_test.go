package config_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/config"
)

// writeFile creates a configuration file and returns its path.
func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "countersign.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load returns the settings of a file, which may be empty, and of variables.
func load(t *testing.T, path string, environ ...string) config.Config {
	t.Helper()
	loaded, err := config.Load(path, environ)
	if err != nil {
		t.Fatal(err)
	}
	return loaded.Config
}

// TestExampleFile verifies that the example file contains every setting with its default.
func TestExampleFile(t *testing.T) {
	t.Parallel()
	const example = "../deploy/examples/countersign.yaml"
	if diff := cmp.Diff(load(t, ""), load(t, example)); diff != "" {
		t.Errorf("the example differs from the defaults (-default +example):\n%s", diff)
	}
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys(reflect.TypeFor[config.Config]()) {
		if !strings.Contains(string(text), key+":") {
			t.Errorf("the example lacks the setting %s", key)
		}
	}
}

// TestUnknownVariables verifies that each unknown variable with the prefix causes a warning, and variables of
// Kubernetes do not.
func TestUnknownVariables(t *testing.T) {
	t.Parallel()
	loaded, err := config.Load("", []string{
		"COUNTERSIGN_UPSTREM_URL=x", "COUNTERSIGN_UPSTREAM_URL=https://x.example", "COUNTERSIGN_CONFIG=", "COUNTERSIGN_DATA=",
		"COUNTERSIGN_SIGNING_ON_PUSH=x=y", "COUNTERSIGN_STORAGE=filesystem:/x", "HOME=/", "COUNTERSIGNED=x",
		"COUNTERSIGN_PORT=tcp://10.0.0.1:24817",
		"COUNTERSIGN_PORT_24817_TCP_ADDR=10.0.0.1", "COUNTERSIGN_SERVICE_HOST=10.0.0.1", "COUNTERSIGN_=x",
	})
	if err != nil {
		t.Fatal(err)
	}
	const problem = "unknown setting in the environment"
	want := []config.Warning{{Setting: "COUNTERSIGN_", Problem: problem}, {Setting: "COUNTERSIGN_UPSTREM_URL", Problem: problem}}
	if diff := cmp.Diff(want, loaded.Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// TestFormerValues verifies that a renamed value works with a warning, wherever it is set.
func TestFormerValues(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ file, variable string }{
		"file":        {file: "upstream: {redirects: hand_on}\n"},
		"environment": {variable: "COUNTERSIGN_UPSTREAM_REDIRECTS=hand_on"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			loaded, err := config.Load(writeFile(t, tt.file), []string{tt.variable})
			if err != nil {
				t.Fatal(err)
			}
			if got := loaded.Config.Upstream.Redirects; got != config.RedirectsPassThrough {
				t.Errorf("redirects = %q, want %q", got, config.RedirectsPassThrough)
			}
			want := []config.Warning{{Setting: "upstream.redirects", Problem: "the value hand_on was renamed: use pass_through"}}
			if diff := cmp.Diff(want, loaded.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

// keys returns the YAML keys of a struct and of its nested structs.
func keys(t reflect.Type) (found []string) {
	for f := range t.Fields() {
		found = append(found, f.Tag.Get("yaml"))
		field := f.Type
		if field.Kind() == reflect.Slice {
			field = field.Elem()
		}
		if field.Kind() == reflect.Struct && field != reflect.TypeFor[config.Storage]() {
			found = append(found, keys(field)...)
		}
	}
	return found
}

// TestPrecedence verifies that the environment takes precedence over the file, and that COUNTERSIGN_CONFIG names the
// file.
func TestPrecedence(t *testing.T) {
	t.Parallel()
	path := writeFile(t, "listen: 127.0.0.1:1\nworkers: 3\nsigning: {script_timeout: 5s}\ntls: {cert_file: a, key_file: b}\n")
	loaded, err := config.Load("", []string{
		"COUNTERSIGN_CONFIG=" + path, "COUNTERSIGN_LISTEN=127.0.0.1:2", "COUNTERSIGN_SIGNING_SCRIPT_TIMEOUT=7s",
		"COUNTERSIGN_UPSTREAM_PASSWORD=secret", "COUNTERSIGN_ANONYMOUS_PULL=false", "COUNTERSIGN_STORAGE=filesystem:/blobs",
		"COUNTERSIGN_LOG_LEVEL=warn", "LISTEN=x",
	})
	if err != nil {
		t.Fatal(err)
	}
	c := loaded.Config
	for name, tt := range map[string]struct{ got, want any }{
		"file":                   {loaded.File, path},
		"listen":                 {c.Listen, "127.0.0.1:2"},
		"workers":                {c.Workers, 3},
		"signing.script_timeout": {c.Signing.ScriptTimeout, 7 * time.Second},
		"public_url":             {c.PublicURL, "https://localhost:2"},
		"public host":            {c.Public().Host, "localhost:2"},
		"upstream.password":      {c.Upstream.Password.Reveal(), "secret"},
		"anonymous_pull":         {c.AnonymousPull, config.AnonymousPull("false")},
		"storage":                {c.Storage.Parameters["rootdirectory"], "/blobs"},
		"log.level":              {c.Log.Level, slog.LevelWarn},
	} {
		if tt.got != tt.want {
			t.Errorf("%s = %v, want %v", name, tt.got, tt.want)
		}
	}
}

func TestUpstream(t *testing.T) {
	t.Parallel()
	c := load(t, "", "COUNTERSIGN_UPSTREAM_PREFIX=company/team__a/x-y/", "COUNTERSIGN_UPSTREAM_TOKEN=hunter2",
		"COUNTERSIGN_UPSTREAM_REDIRECTS=pass_through", "COUNTERSIGN_UPSTREAM_TOKEN_HOSTS=auth.docker.io,gitlab.example:8443,[::1]:5001")
	want := config.Default().Upstream
	want.Prefix, want.Token, want.Redirects = "company/team__a/x-y/", "hunter2", "pass_through"
	want.TokenHosts = []string{"auth.docker.io", "gitlab.example:8443", "[::1]:5001"}
	if diff := cmp.Diff(want, c.Upstream); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if c.Upstream.Token.Reveal() != "hunter2" {
		t.Error("Reveal does not return the token")
	}
	if text := fmt.Sprintf("%v %+v %#v", c, c, c); strings.Contains(text, "hunter2") {
		t.Errorf("formatted settings contain the token: %s", text)
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
	off := writeFile(t, "signing: {default_service: ''}\n")
	for name, tt := range map[string]struct {
		path    string
		environ []string
		want    string
	}{
		"default":                        {want: "countersign"},
		"off in the file":                {path: off},
		"off in the environment":         {environ: []string{"COUNTERSIGN_SIGNING_DEFAULT_SERVICE="}},
		"another name":                   {environ: []string{"COUNTERSIGN_SIGNING_DEFAULT_SERVICE=ours"}, want: "ours"},
		"environment overrides the file": {path: off, environ: []string{"COUNTERSIGN_SIGNING_DEFAULT_SERVICE=ours"}, want: "ours"},
	} {
		if got := load(t, tt.path, tt.environ...).Signing.DefaultService; got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestStorageBlock(t *testing.T) {
	t.Parallel()
	c := load(t, writeFile(t, "storage:\n  s3:\n    bucket: blobs\n    region: eu\n"))
	if diff := cmp.Diff(config.Storage{Driver: "s3", Parameters: map[string]any{"bucket": "blobs", "region": "eu"}}, c.Storage); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDerivedSettings verifies the settings that follow from others.
func TestDerivedSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := load(t, "", "COUNTERSIGN_DATA="+dir, "COUNTERSIGN_PUBLIC_URL=https://registry.example/")
	for name, tt := range map[string]struct{ got, want any }{
		"database_url":     {c.DatabaseURL, "sqlite:" + dir + "/countersign.db"},
		"storage":          {c.Storage.Parameters["rootdirectory"], dir + "/storage"},
		"signing.work_dir": {c.Signing.WorkDir, dir + "/work"},
		"public_url":       {c.PublicURL, "https://registry.example"},
	} {
		if tt.got != tt.want {
			t.Errorf("%s = %v, want %v", name, tt.got, tt.want)
		}
	}
}

// TestAssignedServices verifies that the first matching rule of each list applies, and that services of
// signing.on_push come first.
func TestAssignedServices(t *testing.T) {
	t.Parallel()
	c := load(t, "", "COUNTERSIGN_SIGNING_ON_PUSH=prod/test=dev,prod/*=release",
		"COUNTERSIGN_SIGNING_ASSIGN=prod/test=qa,prod/*=release,team/app=dev")
	for name, want := range map[string][]string{
		"prod/test": {"dev", "qa"}, "prod/app": {"release"}, "team/app": {"dev"}, "team/app2": nil, "production/app": nil, "prod": nil,
	} {
		if got := c.Signing.AssignedServices(name); !cmp.Equal(got, want) {
			t.Errorf("AssignedServices(%s) = %v, want %v", name, got, want)
		}
	}
	if c := load(t, ""); c.Signing.Use != config.UseAssigned || c.Signing.AssignedServices("prod/app") != nil {
		t.Errorf("default settings assign a service: %+v", c.Signing)
	}
}

// TestInvalidSettings verifies that the error for an invalid setting names it.
func TestInvalidSettings(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		file     string
		variable string
		want     string // part of the error
	}{
		"unknown key":                  {file: "data: x\nlisten_on: y\n", want: "line 2"},
		"unknown nested key":           {file: "tls:\n  cert: x\n", want: "line 2"},
		"wrong type":                   {file: "workers: many\n", want: "line 1"},
		"two storage drivers":          {file: "storage: {a: {}, b: {}}\n", want: "want one driver"},
		"storage without a directory":  {file: "storage: s3\n", want: "filesystem:<dir>"},
		"invalid YAML":                 {file: "{", want: "countersign.yaml"},
		"public URL with a path":       {variable: "COUNTERSIGN_PUBLIC_URL=https://x/registry", want: "public_url"},
		"public URL with a user":       {variable: "COUNTERSIGN_PUBLIC_URL=https://me@x", want: "public_url"},
		"public URL without a scheme":  {variable: "COUNTERSIGN_PUBLIC_URL=registry.example", want: "public_url"},
		"address without a host":       {variable: "COUNTERSIGN_LISTEN=24817", want: "listen"},
		"unknown repository type":      {variable: "COUNTERSIGN_PUSH_REPOSITORY_TYPE=file", want: "push_repository_type"},
		"prefix without a final slash": {variable: "COUNTERSIGN_UPSTREAM_PREFIX=company", want: "upstream.prefix"},
		"empty prefix component":       {variable: "COUNTERSIGN_UPSTREAM_PREFIX=/", want: "upstream.prefix"},
		"prefix with dots":             {variable: "COUNTERSIGN_UPSTREAM_PREFIX=company/../", want: "upstream.prefix"},
		"prefix in upper case":         {variable: "COUNTERSIGN_UPSTREAM_PREFIX=Company/", want: "upstream.prefix"},
		"prefix with a line break":     {file: "upstream: {prefix: \"a/\\nb/\"}\n", want: "upstream.prefix"},
		"unknown redirects":            {variable: "COUNTERSIGN_UPSTREAM_REDIRECTS=ignore", want: "upstream.redirects"},
		"token and user name":          {file: "upstream: {token: x, username: y}\n", want: "upstream: set either token"},
		"token host with a scheme": {
			variable: "COUNTERSIGN_UPSTREAM_TOKEN_HOSTS=good.example,https://auth.example",
			want:     "upstream.token_hosts",
		},
		"token host with a path":  {variable: "COUNTERSIGN_UPSTREAM_TOKEN_HOSTS=auth.example/token", want: "upstream.token_hosts"},
		"unknown policy for keys": {variable: "COUNTERSIGN_SIGNATURES_UNKNOWN_KEYS=maybe", want: "signatures.unknown_keys"},
		"negative workers":        {variable: "COUNTERSIGN_WORKERS=-1", want: "workers"},
		"no parallel signature":   {variable: "COUNTERSIGN_SIGNING_PARALLEL=0", want: "signing.parallel"},
		"unknown rule of use": {
			variable: "COUNTERSIGN_SIGNING_USE=owners",
			want:     `signing.use: want assigned or repository_owners, got "owners"`,
		},
		"assignment without a service": {variable: "COUNTERSIGN_SIGNING_ASSIGN=team/*", want: "signing.assign: want PATTERN=SERVICE"},
		"star inside a pattern":        {variable: "COUNTERSIGN_SIGNING_ASSIGN=team/*/app=release", want: "signing.assign"},
		"zero script timeout":          {variable: "COUNTERSIGN_SIGNING_SCRIPT_TIMEOUT=0s", want: "signing.script_timeout"},
		"negative token wait":          {variable: "COUNTERSIGN_SIGNING_TOKEN_WAIT=-1s", want: "signing.token_wait"},
		"proxy by name": {
			variable: "COUNTERSIGN_TRUSTED_PROXIES=10.0.0.1,proxy.example",
			want:     `trusted_proxies: want addresses or networks like 10.1.0.0/16, got "proxy.example"`,
		},
		"token lifetime too short":         {variable: "COUNTERSIGN_TOKEN_LIFETIME=1s", want: "token.lifetime"},
		"token lifetime too long":          {variable: "COUNTERSIGN_TOKEN_LIFETIME=24h1s", want: "token.lifetime: want 1m to 24h, got 24h0m1s"},
		"private key without a public key": {variable: "COUNTERSIGN_TOKEN_PRIVATE_KEY_FILE=x", want: "token"},
		"certificate without a key":        {variable: "COUNTERSIGN_TLS_CERT_FILE=x", want: "tls"},
		"unknown client identity":          {variable: "COUNTERSIGN_TLS_CLIENT_IDENTITY=ou", want: "tls.client_identity: want cn"},
		"client identity without a CA":     {variable: "COUNTERSIGN_TLS_CLIENT_IDENTITY=cn", want: "tls.client_identity: set"},
		"client identity pattern":          {variable: "COUNTERSIGN_TLS_CLIENT_IDENTITY_PATTERN=*@*", want: "tls.client_identity_pattern: want one *"},
		"client CA without a certificate":  {variable: "COUNTERSIGN_TLS_CLIENT_CA_FILE=x", want: "tls.client_ca_file"},
		"client certificates without a CA": {variable: "COUNTERSIGN_TLS_CLIENT_AUTH=required", want: "tls.client_auth"},
		"client_auth":                      {variable: "COUNTERSIGN_TLS_CLIENT_AUTH=true", want: "tls.client_auth"},
		"hsts without https":               {variable: "COUNTERSIGN_TLS_HSTS=24h", want: "tls.hsts"},
		"hsts below a second":              {file: "public_url: https://registry.example\ntls: {hsts: 1ms}\n", want: "tls.hsts"},
		"unknown log format":               {variable: "COUNTERSIGN_LOG_FORMAT=xml", want: "log.format"},
		"unknown log level": {
			variable: "COUNTERSIGN_LOG_LEVEL=loud",
			want:     `COUNTERSIGN_LOG_LEVEL: want debug, info, warn or error, got "loud"`,
		},
		"invalid boolean": {
			variable: "COUNTERSIGN_REGISTRY_BASIC_AUTH=perhaps",
			want:     `COUNTERSIGN_REGISTRY_BASIC_AUTH: want true or false, got "perhaps"`,
		},
		"invalid number": {variable: "COUNTERSIGN_WORKERS=many", want: `COUNTERSIGN_WORKERS: want a whole number, got "many"`},
		"duration without a unit": {
			variable: "COUNTERSIGN_TOKEN_LIFETIME=5",
			want:     `COUNTERSIGN_TOKEN_LIFETIME: want a duration like 90s, 5m or 24h, got "5"`,
		},
		"invalid anonymous_pull": {
			variable: "COUNTERSIGN_ANONYMOUS_PULL=maybe",
			want:     `COUNTERSIGN_ANONYMOUS_PULL: want true, false or token, got "maybe"`,
		},
		"invalid anonymous_pull in the file": {
			file: "anonymous_pull: maybe\n",
			want: `anonymous_pull: want true, false or token, got "maybe"`,
		},
		"unknown storage driver": {
			variable: "COUNTERSIGN_STORAGE=s3:bucket",
			want:     `COUNTERSIGN_STORAGE: want filesystem:<dir>, got "s3:bucket"`,
		},
		"zero retention":   {variable: "COUNTERSIGN_RETENTION_TASKS=0s", want: "retention"},
		"invalid duration": {variable: "COUNTERSIGN_RETENTION_TASKS=month", want: "COUNTERSIGN_RETENTION_TASKS: want a duration"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := ""
			if tt.file != "" {
				path = writeFile(t, tt.file)
			}
			if _, err := config.Load(path, []string{tt.variable}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Load = %v, want an error with %q", err, tt.want)
			}
		})
	}
	if _, err := config.Load("/no/such/file", nil); err == nil {
		t.Error("Load of a missing file succeeded")
	}
	_, err := config.Load("", []string{"COUNTERSIGN_WORKERS=many", "COUNTERSIGN_TASK_LEASE=long"})
	if err == nil || !strings.Contains(err.Error(), "COUNTERSIGN_WORKERS: ") || !strings.Contains(err.Error(), "COUNTERSIGN_TASK_LEASE: ") {
		t.Errorf("Load with two invalid variables = %v, want an error that names both", err)
	}
}

// TestSecretsAreHidden verifies that no output format reveals a secret.
func TestSecretsAreHidden(t *testing.T) {
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
			t.Errorf("output contains a secret: %s", text)
		}
	}
	if c.AdminPassword.Reveal() != "hunter2" {
		t.Error("Reveal does not return the secret")
	}
}
