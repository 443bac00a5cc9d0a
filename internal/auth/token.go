package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// leeway is the tolerated difference between the clocks of several servers.
const leeway = 5 * time.Second

// maxToken is the size limit of a token in bytes.
const maxToken = 16 << 10

var errToken = fault.New(fault.Unauthenticated, "Invalid token.")

// Access is the set of actions that a token permits on one resource. See compatibility.md#tokens.
type Access struct {
	Type    string   `json:"type"`
	Class   string   `json:"class,omitempty"` // the class of the resource in the client's scope; empty for images
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// Issued is a new token with its time of issue and its lifetime.
type Issued struct {
	Token    string
	IssuedAt time.Time
	Lifetime time.Duration
}

// Bearer is the content of a verified token.
type Bearer struct {
	Username string // empty for an anonymous token
	Access   []Access
	// Credential identifies the account and the password for which the token was issued. Compare it with BelongsTo.
	Credential string
	// APIToken is the id of the API token with which the token was requested; empty for none.
	APIToken string
	// Identity describes the credentials for which the token was issued; see access.Caller.
	Identity string
}

// Allows reports whether the token permits an action on a resource.
func (b Bearer) Allows(kind, name, action string) bool {
	for _, a := range b.Access {
		if a.Type != kind || a.Name != name {
			continue
		}
		for _, granted := range a.Actions {
			if granted == action || granted == "*" {
				return true
			}
		}
	}
	return false
}

// Tokens issues and verifies the registry's bearer tokens: ES256 with one key, one issuer and one audience. It is safe
// for concurrent use.
type Tokens struct {
	issuer   string
	audience string
	lifetime time.Duration
	signer   jose.Signer
	public   *ecdsa.PublicKey
	now      func() time.Time
	bind     []byte                     // HMAC key of the credential claim, derived from the token key
	verified *lru.Cache[string, claims] // tokens with a valid signature; clients send one token with many requests
}

// Limits of the cache of verified tokens.
const (
	maxVerified      = 1024    // tokens; the least recently used are evicted
	maxVerifiedToken = 4 << 10 // bytes; longer tokens are not cached
)

// NewTokens returns a Tokens. issuer is the URL of the token endpoint, audience is the public host: see
// compatibility.md#tokens.
func NewTokens(key *ecdsa.PrivateKey, issuer, audience string, lifetime time.Duration) (*Tokens, error) {
	id, err := keyID(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", id)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, options)
	if err != nil {
		return nil, fmt.Errorf("token signer: %w", err)
	}
	verified, err := lru.New[string, claims](maxVerified)
	if err != nil {
		return nil, err
	}
	secret, err := key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	bind, err := hkdf.Key(sha256.New, secret, nil, "countersign token credential", sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	return &Tokens{
		issuer: issuer, audience: audience, lifetime: lifetime, signer: signer, public: &key.PublicKey,
		now: time.Now, bind: bind, verified: verified,
	}, nil
}

// claims are the claims of a token. See compatibility.md#tokens.
type claims struct {
	Access    []Access `json:"access"`
	Audience  string   `json:"aud"`
	Expiry    int64    `json:"exp"`
	IssuedAt  int64    `json:"iat"`
	Issuer    string   `json:"iss"`
	ID        string   `json:"jti"`
	NotBefore int64    `json:"nbf"`
	Subject   string   `json:"sub"`
	// Credential is the result of Tokens.credential; empty in anonymous tokens.
	Credential string `json:"cred,omitempty"`
	// APIToken is the id of the API token of the caller.
	APIToken string `json:"token,omitempty"`
	// Identity is that of access.Caller.
	Identity string `json:"identity,omitempty"`
}

// jobLifetime is the lifetime of job tokens, and the longest of bearer tokens of CI jobs.
const jobLifetime = time.Hour

// jobAudience is the prefix of the audience of job tokens, so that bearer tokens are not accepted as job tokens and the
// reverse.
const jobAudience = "job:"

// Issue returns a bearer token that is limited to the given access. It is bound to the caller's account and current
// password: see BelongsTo. A nil caller is anonymous.
func (t *Tokens) Issue(who *access.Caller, granted []Access) (Issued, error) {
	lifetime := t.lifetime
	if who != nil && who.Account.Kind == pulp.RuleIdentity {
		lifetime = min(lifetime, jobLifetime)
	}
	return t.issue(who, granted, t.audience, lifetime)
}

// issueJob returns a job token, which a CI job uses as a password after its id token has expired.
func (t *Tokens) issueJob(who *access.Caller) (Issued, error) {
	return t.issue(who, nil, jobAudience+t.audience, jobLifetime)
}

func (t *Tokens) issue(who *access.Caller, granted []Access, audience string, lifetime time.Duration) (Issued, error) {
	now := t.now().UTC()
	c := claims{
		Access: granted, Audience: audience, Issuer: t.issuer, ID: uuid.NewString(),
		IssuedAt: now.Unix(), NotBefore: now.Unix(), Expiry: now.Add(lifetime).Unix(),
	}
	if who != nil {
		if who.Token != nil {
			c.APIToken = who.Token.ID
		}
		c.Subject, c.Credential, c.Identity = who.Account.Username, t.credential(who.Account, c.APIToken), who.Identity
	}
	if granted == nil {
		c.Access = []Access{}
	}
	text, err := jwt.Signed(t.signer).Claims(c).Serialize()
	if err != nil {
		return Issued{}, fmt.Errorf("sign token: %w", err)
	}
	return Issued{Token: text, IssuedAt: now, Lifetime: lifetime}, nil
}

// BelongsTo reports whether a verified token is valid for the current state of an account: the account is active, is
// the same account (not one created later with the same name) and, unless an API token was used, has the same password
// as when the token was issued. The result is false for anonymous tokens and for tokens without a credential, which
// older versions issued. The API token is not checked.
func (t *Tokens) BelongsTo(b Bearer, user pulp.User) bool {
	return belongsTo(b, user, t.credential(user, b.APIToken))
}

// belongsTo is BelongsTo with the credential of the account and of the API token.
func belongsTo(b Bearer, user pulp.User, credential string) bool {
	return user.Active && b.Username == user.Username && b.Credential != "" &&
		hmac.Equal([]byte(b.Credential), []byte(credential))
}

// credential returns a short HMAC of an account's id, time of creation and password hash, or of the id of an API token
// instead of the hash. Since its key is derived from the token key, all servers compute the same value and clients
// learn nothing about the password hash.
func (t *Tokens) credential(user pulp.User, apiToken string) string {
	secret := user.Hash
	if apiToken != "" {
		secret = "token " + apiToken
	}
	h := hmac.New(sha256.New, t.bind)
	_, _ = fmt.Fprintf(h, "%d %d %s", user.ID, user.Created.UnixMicro(), secret)
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
}

// Verify verifies the signature, issuer, audience and times of a bearer token and returns its content. It accepts only
// ES256 with the server's own key, whatever the token's header states. It does not check the account: see BelongsTo.
// The error is Unauthenticated.
func (t *Tokens) Verify(text string) (Bearer, error) { return t.verify(text, t.audience) }

// verifyJob is Verify for job tokens.
func (t *Tokens) verifyJob(text string) (Bearer, error) {
	return t.verify(text, jobAudience+t.audience)
}

// issued reports whether a token claims to be issued by this server. It verifies nothing.
func (t *Tokens) issued(text string) bool {
	if len(text) > maxToken {
		return false
	}
	parsed, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return false
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	return parsed.UnsafeClaimsWithoutVerification(&c) == nil && c.Issuer == t.issuer
}

func (t *Tokens) verify(text, audience string) (Bearer, error) {
	c, err := t.signed(text)
	if err != nil {
		return Bearer{}, err
	}
	now := t.now()
	if c.Issuer != t.issuer || c.Audience != audience ||
		now.Add(leeway).Before(time.Unix(c.NotBefore, 0)) || now.Add(-leeway).After(time.Unix(c.Expiry, 0)) {
		return Bearer{}, errToken
	}
	return Bearer{Username: c.Subject, Access: c.Access, Credential: c.Credential, Identity: c.Identity, APIToken: c.APIToken}, nil
}

// signed verifies the signature of a token and returns its claims. The caller must not modify Access, which is cached.
func (t *Tokens) signed(text string) (claims, error) {
	if c, ok := t.verified.Get(text); ok {
		return c, nil
	}
	if len(text) > maxToken {
		return claims{}, errToken
	}
	parsed, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return claims{}, errToken
	}
	var c claims
	if err := parsed.Claims(t.public, &c); err != nil {
		return claims{}, errToken
	}
	if len(text) <= maxVerifiedToken {
		t.verified.Add(text, c)
	}
	return c, nil
}

// keyID returns the id of a public key in the format of libtrust, derived from 30 hex digits of its hash. See
// compatibility.md#tokens.
func keyID(key *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode token key: %w", err)
	}
	sum := sha256.Sum256(der)
	text := base32.StdEncoding.EncodeToString([]byte(hex.EncodeToString(sum[:])[:30]))
	var groups []string
	for i := 0; i+4 <= len(text); i += 4 {
		groups = append(groups, text[i:i+4])
	}
	return strings.Join(groups, ":"), nil
}

// Settings stores values of the installation.
type Settings interface {
	// SettingOrCreate returns the value of a setting. If there is none it stores the result of create first.
	SettingOrCreate(ctx context.Context, name string, create func() ([]byte, error)) ([]byte, error)
}

// KeptKey returns the token key that Settings contains, and generates it if there is none.
func KeptKey(ctx context.Context, s Settings) (*ecdsa.PrivateKey, error) {
	kept, err := s.SettingOrCreate(ctx, "token_key", func() ([]byte, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
	})
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	return parseKey(kept)
}

// ReadKey reads the token key from a pair of PEM files. It is an error if the public key is not that of the private
// key.
func ReadKey(privatePath, publicPath string) (*ecdsa.PrivateKey, error) {
	private, err := os.ReadFile(privatePath)
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	key, err := parseKey(private)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", privatePath, err)
	}
	public, err := os.ReadFile(publicPath)
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	block, _ := pem.Decode(public)
	if block == nil {
		return nil, fmt.Errorf("%s: no PEM block", publicPath)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", publicPath, err)
	}
	if !key.PublicKey.Equal(parsed) {
		return nil, fmt.Errorf("%s is not the public key of %s", publicPath, privatePath)
	}
	return key, nil
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	var parsed any
	var err error
	if block.Type == "EC PRIVATE KEY" {
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	} else {
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("want an ECDSA key on the curve P-256")
	}
	return key, nil
}
