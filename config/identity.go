package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// minRecheck is the shortest time between confirmations of an account by the LDAP directory.
const minRecheck = 10 * time.Second

// Htpasswd contains settings of the people in an htpasswd file.
type Htpasswd struct {
	// File has lines NAME:HASH with bcrypt hashes. It is read again when it changes. Empty: no such people.
	File string `yaml:"file" env:"FILE"`
	// GroupFile has lines GROUP: NAME NAME …, the groups of the people in File. Empty: no groups.
	GroupFile string `yaml:"group_file" env:"GROUP_FILE"`
	// AdminGroups are groups in GroupFile whose members are administrators.
	AdminGroups []string `yaml:"admin_groups" env:"ADMIN_GROUPS"`
}

// LDAP contains settings of the people in an LDAP directory.
type LDAP struct {
	// URL is ldaps://HOST[:PORT] or ldap://HOST[:PORT]. Empty: no such people.
	URL string `yaml:"url" env:"URL"`
	// StartTLS encrypts connections to an ldap:// URL. It has no effect on ldaps://.
	StartTLS bool `yaml:"start_tls" env:"START_TLS"`
	// AllowPlain permits an ldap:// URL of another host without StartTLS. Passwords are then readable on the network.
	AllowPlain bool   `yaml:"allow_plain" env:"ALLOW_PLAIN"`
	CAFile     string `yaml:"ca_file" env:"CA_FILE"` // PEM certificates to trust in addition to the system's
	// BindDN and Password are the account that searches. Empty: the search is anonymous.
	BindDN   string `yaml:"bind_dn" env:"BIND_DN"`
	Password Secret `yaml:"password" env:"PASSWORD"`
	// PasswordFile is a file with the password in its first line, as an alternative to Password. It is read at each use.
	PasswordFile string `yaml:"password_file" env:"PASSWORD_FILE"`
	UserBase     string `yaml:"user_base" env:"USER_BASE"` // people are searched below it
	// UserFilter finds the one entry of a person. {name} is the name that the person typed.
	UserFilter string `yaml:"user_filter" env:"USER_FILTER"`
	// IDAttribute has a value that no other entry ever gets: entryUUID, objectGUID (Active Directory), or dn for the
	// distinguished name.
	IDAttribute        string `yaml:"id_attribute" env:"ID_ATTRIBUTE"`
	NameAttribute      string `yaml:"name_attribute" env:"NAME_ATTRIBUTE"` // has the name of the account
	FirstNameAttribute string `yaml:"first_name_attribute" env:"FIRST_NAME_ATTRIBUTE"`
	LastNameAttribute  string `yaml:"last_name_attribute" env:"LAST_NAME_ATTRIBUTE"`
	MailAttribute      string `yaml:"mail_attribute" env:"MAIL_ATTRIBUTE"`
	GroupBase          string `yaml:"group_base" env:"GROUP_BASE"` // groups are searched below it; empty: no groups
	// GroupFilter finds the groups of a person. {dn} is the distinguished name of the entry, {name} the account's name.
	GroupFilter string `yaml:"group_filter" env:"GROUP_FILTER"`
	// Groups maps distinguished names of groups to groups of this server. Other groups have no effect.
	Groups GroupMap `yaml:"groups" env:"GROUPS"`
	// AdminGroups are distinguished names of groups whose members are administrators.
	AdminGroups DNList `yaml:"admin_groups" env:"ADMIN_GROUPS"`
	// Timeout limits one login or confirmation, over all its requests.
	Timeout time.Duration `yaml:"timeout" env:"TIMEOUT"`
	// Recheck is the age of a confirmation of an account after which the directory is asked again.
	Recheck time.Duration `yaml:"recheck" env:"RECHECK"`
	// MaxOutage is the age up to which a confirmation is valid while the directory does not answer.
	MaxOutage time.Duration `yaml:"max_outage" env:"MAX_OUTAGE"`
}

// GroupMap maps names of groups of a source to groups of this server.
type GroupMap map[string]string

// UnmarshalText parses the YAML form, like {"cn=dev,dc=example": developers}. Distinguished names contain commas, so
// the usual form of lists in variables is not usable.
func (g *GroupMap) UnmarshalText(text []byte) error {
	if err := yaml.Unmarshal(text, (*map[string]string)(g)); err != nil {
		return fmt.Errorf(`want a map like {"cn=dev,ou=groups,dc=example": developers}, got %q`, text)
	}
	return nil
}

// DNList is a list of distinguished names.
type DNList []string

// UnmarshalText parses the YAML form, like ["cn=admins,dc=example"]. Distinguished names contain commas, so the usual
// form of lists in variables is not usable.
func (l *DNList) UnmarshalText(text []byte) error {
	if err := yaml.Unmarshal(text, (*[]string)(l)); err != nil {
		return fmt.Errorf(`want a list like ["cn=admins,ou=groups,dc=example"], got %q`, text)
	}
	return nil
}

func (h Htpasswd) validate() error {
	return check(h.File != "" || h.GroupFile == "" && len(h.AdminGroups) == 0,
		"htpasswd.file: set it, because group_file or admin_groups is set")
}

func (l LDAP) validate() error {
	if l.URL == "" {
		return nil
	}
	u, err := url.Parse(l.URL)
	if err != nil || u.Hostname() == "" || u.Scheme != "ldaps" && u.Scheme != "ldap" {
		return fmt.Errorf("ldap.url: want ldaps://HOST[:PORT] or ldap://HOST[:PORT], got %q", l.URL)
	}
	return errors.Join(
		check(u.Scheme == "ldaps" || l.StartTLS || l.AllowPlain || isLoopback(u.Hostname()),
			"ldap: passwords would be readable on the network to %s: use ldaps://, set start_tls, or set allow_plain", u.Host),
		check(l.BindDN == "" || l.Password != "" || l.PasswordFile != "",
			"ldap.bind_dn: set password or password_file as well"),
		check(l.Password == "" || l.PasswordFile == "", "ldap: set either password or password_file"),
		check(strings.Contains(l.UserFilter, "{name}"), "ldap.user_filter: want a filter with {name}, got %q", l.UserFilter),
		check(l.IDAttribute != "", "ldap.id_attribute: want the name of an attribute, or dn"),
		check(l.NameAttribute != "", "ldap.name_attribute: want the name of an attribute"),
		check(l.Timeout >= 100*time.Millisecond && l.Timeout <= time.Minute,
			"ldap.timeout: want 100ms to 1m, got %v", l.Timeout),
		check(l.Recheck >= minRecheck && l.Recheck <= 24*time.Hour,
			"ldap.recheck: want %v to 24h, got %v", minRecheck, l.Recheck),
		check(l.MaxOutage >= l.Recheck, "ldap.max_outage: want at least recheck (%v), got %v", l.Recheck, l.MaxOutage),
	)
}

// isLoopback reports whether a host is localhost or a loopback address.
func isLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.Unmap().IsLoopback()
}
