package config

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxLogin bounds oidc.login.lifetime: for that long a person who was removed at the issuer keeps access.
const maxLogin = 30 * 24 * time.Hour

// OIDC contains settings of id tokens: of CI jobs, which push and sign without a stored secret, and of people. Its lists
// can be set in the file only. Package oidc checks them at start.
type OIDC struct {
	// Issuers are the services whose id tokens rules may accept.
	Issuers []OIDCIssuer `yaml:"issuers" env:"-"`
	// Rules grant rights to id tokens. A token gets the rights of the first rule that it matches.
	Rules []OIDCRule `yaml:"rules" env:"-"`
	// Login lets people log in.
	Login OIDCLogin `yaml:"login" envPrefix:"LOGIN_"`
}

// OIDCLogin lets people log in with OpenID Connect.
type OIDCLogin struct {
	// Issuer is the URL of the issuer of their id tokens. Empty: people cannot log in so.
	Issuer string `yaml:"issuer" env:"ISSUER"`
	// ClientID is the name at the issuer of the public client that `countersign login` is.
	ClientID string   `yaml:"client_id" env:"CLIENT_ID"`
	Scopes   []string `yaml:"scopes" env:"SCOPES"`   // that the command requests
	CAFile   string   `yaml:"ca_file" env:"CA_FILE"` // PEM certificates to trust in addition to the system's
	// AllowPrivateAddresses are private and loopback addresses or networks that the issuer may have.
	AllowPrivateAddresses []string `yaml:"allow_private_addresses" env:"ALLOW_PRIVATE_ADDRESSES"`
	NameClaim             string   `yaml:"name_claim" env:"NAME_CLAIM"`     // has the name of the account
	GroupsClaim           string   `yaml:"groups_claim" env:"GROUPS_CLAIM"` // has the groups; empty: none
	// Groups maps groups of the issuer to groups of this server. Other groups have no effect.
	Groups GroupMap `yaml:"groups" env:"GROUPS"`
	// AdminGroups are groups of the issuer whose members are administrators.
	AdminGroups []string `yaml:"admin_groups" env:"ADMIN_GROUPS"`
	// Claims are the claims that a token must have. Empty: everybody with an account at the issuer may log in. They can
	// be set in the file only.
	Claims map[string]OIDCValues `yaml:"claims" env:"-"`
	// DeviceFlow permits logins without a browser on the same computer, also by id tokens without a nonce.
	DeviceFlow bool `yaml:"device_flow" env:"DEVICE_FLOW"`
	// Lifetime is the validity of a login: of its API token, and of other tokens of the account.
	Lifetime time.Duration `yaml:"lifetime" env:"LIFETIME"`
}

// Prefixes returns AllowPrivateAddresses, parsed.
func (l OIDCLogin) Prefixes() ([]netip.Prefix, error) {
	return prefixes("oidc.login.allow_private_addresses", l.AllowPrivateAddresses)
}

// OIDCIssuer is a service that issues id tokens.
type OIDCIssuer struct {
	// URL is the claim iss of the tokens, exactly.
	URL string `yaml:"url"`
	// JWKSURI is the URL of the issuer's keys. Empty: as its discovery document says, which must be on its own host.
	JWKSURI string `yaml:"jwks_uri"`
	// JWKSFile is a file with the issuer's keys, as an alternative to requests to the issuer.
	JWKSFile string `yaml:"jwks_file"`
	CAFile   string `yaml:"ca_file"` // PEM certificates to trust in addition to the system's
	// MaxLifetime is the longest accepted validity of a token. 0: 1h.
	MaxLifetime time.Duration `yaml:"max_lifetime"`
	// AllowPrivateAddresses are private and loopback addresses or networks that the issuer may have.
	AllowPrivateAddresses []string `yaml:"allow_private_addresses"`
}

// Prefixes returns AllowPrivateAddresses, parsed.
func (i OIDCIssuer) Prefixes() ([]netip.Prefix, error) {
	return prefixes("oidc.issuers: allow_private_addresses", i.AllowPrivateAddresses)
}

// OIDCRule grants rights to the id tokens of one project.
type OIDCRule struct {
	Name     string `yaml:"name"`
	Issuer   string `yaml:"issuer"`   // the URL of an issuer in Issuers
	Audience string `yaml:"audience"` // the only audience of a token
	// Claims are the claims that a token must have, each with one of the values.
	Claims map[string]OIDCValues `yaml:"claims"`
	Grants []OIDCGrant           `yaml:"grants"`
}

// OIDCGrant is a part of the rights of a rule.
type OIDCGrant struct {
	Role string `yaml:"role"` // the name of a role
	// Repositories are names, or prefixes followed by *.
	Repositories []string `yaml:"repositories"`
	// SigningServices are the names of signing services that may sign content of these repositories.
	SigningServices []string `yaml:"signing_services"`
}

// OIDCValues are the accepted values of a claim. In the file a single value needs no list.
type OIDCValues []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (v *OIDCValues) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		*v = OIDCValues{node.Value}
		return nil
	}
	var values []string
	if err := node.Decode(&values); err != nil {
		return fmt.Errorf("line %d: want a value or a list of values", node.Line)
	}
	*v = values
	return nil
}

func (o OIDC) validate() error {
	var invalid []error
	for _, i := range o.Issuers {
		_, err := i.Prefixes()
		invalid = append(invalid, err)
	}
	_, err := o.Login.Prefixes()
	return errors.Join(append(invalid, err,
		check(o.Login.Lifetime >= time.Minute && o.Login.Lifetime <= maxLogin,
			"oidc.login.lifetime: want 1m to %v, got %v", maxLogin, o.Login.Lifetime))...)
}
