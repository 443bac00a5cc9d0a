package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/countersign/countersign/config"
)

// TestYAML verifies that the shown settings can be loaded again and contain no secret.
func TestYAML(t *testing.T) {
	t.Parallel()
	loaded, err := config.Load("", []string{
		"COUNTERSIGN_DATA=/data", "COUNTERSIGN_DATABASE_URL=postgres://u:hunter2@h/d?sslpassword=hunter2&sslmode=require",
		"COUNTERSIGN_REDIS_URL=redis://:hunter2@h:1", "COUNTERSIGN_ADMIN_PASSWORD=hunter2", "COUNTERSIGN_UPSTREAM_URL=https://up.example",
		"COUNTERSIGN_UPSTREAM_USERNAME=u", "COUNTERSIGN_UPSTREAM_PASSWORD=hunter2", "COUNTERSIGN_WORKERS=7",
	})
	if err != nil {
		t.Fatal(err)
	}
	loaded.Config.Storage.Parameters["secretkey"] = "hunter2"
	text, err := loaded.Config.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "hunter2") || !strings.Contains(string(text), "sslmode=require") {
		t.Errorf("settings:\n%s", text)
	}
	if loaded.Config.Storage.Parameters["secretkey"] != "hunter2" {
		t.Error("YAML has changed the settings")
	}
	file := filepath.Join(t.TempDir(), "shown.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "redis_url: '***'", "redis_url: redis://:hunter2@h:1")), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := config.Load(file, nil)
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	for _, c := range []*config.Config{&loaded.Config, &again.Config} {
		c.DatabaseURL, c.RedisURL, c.AdminPassword, c.Upstream.Password, c.Storage.Parameters = "", "", "", "", nil
	}
	if !reflect.DeepEqual(again.Config, loaded.Config) {
		t.Errorf("loaded again:\n%+v\nwant\n%+v", again.Config, loaded.Config)
	}
}

// TestDangers verifies each dangerous setting, and that the defaults have none.
func TestDangers(t *testing.T) {
	t.Parallel()
	for want, variables := range map[string][]string{
		"":                               nil,
		"public_url":                     {"COUNTERSIGN_PUBLIC_URL=http://registry.example"},
		"admin_password":                 {"COUNTERSIGN_ADMIN_PASSWORD=x"},
		"upstream.insecure_skip_verify":  {"COUNTERSIGN_UPSTREAM_URL=https://up.example", "COUNTERSIGN_UPSTREAM_INSECURE_SKIP_VERIFY=true"},
		"signing.use":                    {"COUNTERSIGN_SIGNING_USE=" + config.UseRepositoryOwners},
		"signing.on_push_failure":        {"COUNTERSIGN_SIGNING_ON_PUSH_FAILURE=accept"},
		"mirror.allow_shrink":            {"COUNTERSIGN_MIRROR_ALLOW_SHRINK=true"},
		"mirror.skip_corrupt":            {"COUNTERSIGN_MIRROR_SKIP_CORRUPT=true"},
		"mirror.allow_private_addresses": {"COUNTERSIGN_MIRROR_ALLOW_PRIVATE_ADDRESSES=0.0.0.0/0"},
		"trusted_proxies":                {"COUNTERSIGN_TRUSTED_PROXIES=0.0.0.0/0"},
	} {
		loaded, err := config.Load("", variables)
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		found := []string{}
		for _, w := range loaded.Config.Dangers() {
			found = append(found, w.Setting)
		}
		if want == "" && len(found) > 0 || want != "" && !slices.Equal(found, []string{want}) {
			t.Errorf("%q: %v", want, found)
		}
	}
}
