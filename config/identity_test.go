package config_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/config"
)

// TestLDAPSettings verifies that the file and variables set maps and lists of distinguished names, which contain commas.
func TestLDAPSettings(t *testing.T) {
	t.Parallel()
	want := config.Default().LDAP
	want.URL, want.UserBase, want.Recheck = "ldaps://ldap.example", "ou=people,dc=example", time.Minute
	want.BindDN, want.Password = "cn=registry,dc=example", "hunter2"
	want.Groups = config.GroupMap{"cn=dev,ou=groups,dc=example": "developers", "cn=ops,dc=example": "operators"}
	want.AdminGroups = config.DNList{"cn=root,dc=example"}
	file := `
ldap:
  url: ldaps://ldap.example
  user_base: ou=people,dc=example
  recheck: 1m
  bind_dn: cn=registry,dc=example
  password: hunter2
  groups: {"cn=dev,ou=groups,dc=example": developers, "cn=ops,dc=example": operators}
  admin_groups: ["cn=root,dc=example"]
`
	got := load(t, writeFile(t, file)).LDAP
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("file (-want +got):\n%s", diff)
	}
	got = load(t, "", "COUNTERSIGN_LDAP_URL=ldaps://ldap.example", "COUNTERSIGN_LDAP_USER_BASE=ou=people,dc=example",
		"COUNTERSIGN_LDAP_RECHECK=1m", "COUNTERSIGN_LDAP_BIND_DN=cn=registry,dc=example", "COUNTERSIGN_LDAP_PASSWORD=hunter2",
		`COUNTERSIGN_LDAP_GROUPS={"cn=dev,ou=groups,dc=example": developers, "cn=ops,dc=example": operators}`,
		`COUNTERSIGN_LDAP_ADMIN_GROUPS=["cn=root,dc=example"]`).LDAP
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("variables (-want +got):\n%s", diff)
	}
	if text := fmt.Sprintf("%v %+v %#v", got, got, got); strings.Contains(text, "hunter2") {
		t.Errorf("formatted settings contain the password: %s", text)
	}
}

// TestPlainLDAP verifies that unencrypted connections to another host need the explicit setting.
func TestPlainLDAP(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		settings string
		ok       bool
	}{
		{"url: ldaps://ldap.example", true},
		{"url: ldaps://ldap.example, start_tls: false", true},
		{"url: ldap://ldap.example", true},
		{"url: ldap://ldap.example, start_tls: false", false},
		{"url: ldap://10.0.0.1, start_tls: false", false},
		{"url: ldap://localhost.example, start_tls: false", false},
		{"url: ldap://ldap.example, start_tls: false, allow_plain: true", true},
		{"url: 'ldap://localhost:3389', start_tls: false", true},
		{"url: 'ldap://127.0.0.1:3389', start_tls: false", true},
		{"url: 'ldap://[::1]:3389', start_tls: false", true},
	} {
		_, err := config.Load(writeFile(t, "ldap: {"+c.settings+"}\n"), nil)
		if c.ok != (err == nil) || err != nil && !strings.Contains(err.Error(), "readable on the network") {
			t.Errorf("Load with %s = %v, want success %t", c.settings, err, c.ok)
		}
	}
}

// TestInvalidIdentitySettings verifies that the error for an invalid setting names it.
func TestInvalidIdentitySettings(t *testing.T) {
	t.Parallel()
	for settings, want := range map[string]string{
		"htpasswd: {group_file: x}":                                  "htpasswd.file: set it",
		"htpasswd: {admin_groups: [x]}":                              "htpasswd.file: set it",
		"ldap: {url: 'http://x'}":                                    "ldap.url: want",
		"ldap: {url: 'ldaps://'}":                                    "ldap.url: want",
		"ldap: {url: 'ldaps://x', bind_dn: cn=x}":                    "ldap.bind_dn: set password",
		"ldap: {url: 'ldaps://x', password: x, password_file: x}":    "ldap: set either",
		"ldap: {url: 'ldaps://x', user_filter: (uid=x)}":             "ldap.user_filter",
		"ldap: {url: 'ldaps://x', id_attribute: ''}":                 "ldap.id_attribute",
		"ldap: {url: 'ldaps://x', name_attribute: ''}":               "ldap.name_attribute",
		"ldap: {url: 'ldaps://x', timeout: 1ms}":                     "ldap.timeout: want",
		"ldap: {url: 'ldaps://x', recheck: 1s}":                      "ldap.recheck: want 10s",
		"ldap: {url: 'ldaps://x', recheck: 10m, max_outage: 1m}":     "ldap.max_outage: want at least recheck",
		"ldap: {url: 'ldaps://x', groups: [x]}":                      "line 1",
		"ldap: {url: 'ldaps://x', admin_groups: cn=x}":               "want a list like",
		"ldap: {url: 'ldaps://x', groups: \"cn=a,dc=b=developers\"}": "want a map like",
	} {
		if _, err := config.Load(writeFile(t, settings), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Load of %s = %v, want an error with %q", settings, err, want)
		}
	}
	if _, err := config.Load("", []string{"COUNTERSIGN_LDAP_GROUPS=cn=a,dc=b"}); err == nil ||
		!strings.Contains(err.Error(), "COUNTERSIGN_LDAP_GROUPS: want a map like") {
		t.Errorf("Load of a malformed variable = %v", err)
	}
}
