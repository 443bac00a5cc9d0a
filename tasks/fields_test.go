package tasks_test

import (
	"testing"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/tasks"
)

// TestRemoteFieldsRemoveCredentials checks that an edit which sends a remote's credentials to another server removes
// those that it does not replace.
func TestRemoteFieldsRemoveCredentials(t *testing.T) {
	t.Parallel()
	text := func(s string) *string { return &s }
	given := func(s string) tasks.Optional[string] { return tasks.Optional[string]{Set: true, Value: &s} }
	for name, tt := range map[string]struct {
		fields tasks.RemoteFields
		want   pulp.RemoteSecrets
	}{
		"another path": {
			tasks.RemoteFields{URL: text("https://registry.example/x")},
			pulp.RemoteSecrets{Username: text("u"), Password: text("p"), ProxyUsername: text("pu"), ProxyPassword: text("pp")},
		},
		"another host": {
			tasks.RemoteFields{URL: text("https://evil.example")},
			pulp.RemoteSecrets{ProxyUsername: text("pu"), ProxyPassword: text("pp")},
		},
		"another host with a password": {
			tasks.RemoteFields{URL: text("https://new.example"), Username: given("u2"), Password: given("p2")},
			pulp.RemoteSecrets{
				Username: text("u2"), Password: text("p2"), ProxyUsername: text("pu"), ProxyPassword: text("pp"),
			},
		},
		"another host with a user name only": {
			tasks.RemoteFields{URL: text("https://evil.example"), Username: given("u")},
			pulp.RemoteSecrets{Username: text("u"), ProxyUsername: text("pu"), ProxyPassword: text("pp")},
		},
		"another proxy": {
			tasks.RemoteFields{ProxyURL: given("http://evil:8080")}, pulp.RemoteSecrets{},
		},
		"another proxy with a password": {
			tasks.RemoteFields{ProxyURL: given("http://new:8080"), Password: given("p"), ProxyPassword: given("pp2")},
			pulp.RemoteSecrets{Password: text("p"), ProxyPassword: text("pp2")},
		},
	} {
		r := pulp.Remote{
			URL: "https://registry.example", Connection: pulp.Connection{TLSValidation: true, ProxyURL: text("http://proxy:8080")},
			Secrets: pulp.RemoteSecrets{
				Username: text("u"), Password: text("p"), ProxyUsername: text("pu"), ProxyPassword: text("pp"),
			},
		}
		tt.fields.Apply(&r)
		for field, v := range map[string][2]*string{
			"username": {r.Secrets.Username, tt.want.Username}, "password": {r.Secrets.Password, tt.want.Password},
			"proxy_username": {r.Secrets.ProxyUsername, tt.want.ProxyUsername},
			"proxy_password": {r.Secrets.ProxyPassword, tt.want.ProxyPassword},
		} {
			if got, want := v[0], v[1]; (got == nil) != (want == nil) || got != nil && *got != *want {
				t.Errorf("%s: %s: set %t, want %t", name, field, got != nil, want != nil)
			}
		}
	}
}
