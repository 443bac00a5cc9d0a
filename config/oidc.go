package config

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"go.yaml.in/yaml/v3"
)

// OIDC contains settings of id tokens: of CI jobs, which push and sign without a stored secret. Its lists can be set in
// the file only. Package oidc checks them at start.
type OIDC struct {
	// Issuers are the services whose id tokens rules may accept.
	Issuers []OIDCIssuer `yaml:"issuers" env:"-"`
	// Rules grant rights to id tokens. A token gets the rights of the first rule that it matches.
	Rules []OIDCRule `yaml:"rules" env:"-"`
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
	return errors.Join(invalid...)
}
