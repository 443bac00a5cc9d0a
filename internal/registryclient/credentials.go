package registryclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Bounds of tokens.
const (
	maxTokenBody = 1 << 20
	tokenTimeout = time.Minute
	maxTokens    = 10_000           // cached, one for each set of scopes
	tokenLife    = time.Minute      // of a token without expires_in (distribution's specification of token authentication)
	maxTokenLife = 24 * time.Hour   // whatever expires_in says
	renewBefore  = 10 * time.Second // before a token expires
)

// Errors of token services.
var (
	ErrNoService = errors.New("its token service has no URL")
	ErrNoToken   = errors.New("its token service: no token in the answer")
)

// RefusedError says that a registry or its token service refuses the request with the credentials that there are.
type RefusedError struct {
	Status int
	URL    string // without its query
}

// Error returns the status and the URL.
func (e *RefusedError) Error() string { return fmt.Sprintf("%d at %s", e.Status, e.URL) }

// Login is how this server authenticates to a registry. The zero Login is anonymous.
type Login struct {
	// Username and Password are for Basic authentication and for token services. Password is called for each use; nil
	// means an empty one. An empty Username means no user.
	Username string
	Password func() (string, error)
	// Token is a bearer token that the registry accepts for all requests; it replaces the user.
	Token string
	// Trusts reports whether a token service on another host than the registry's may receive the password; nil means
	// none.
	Trusts func(realm *url.URL) bool
}

// Credentials authorizes requests to one registry. It learns from the registry's challenges whether that wants Basic
// authentication or a token, and caches tokens until shortly before they expire. It is safe for concurrent use.
type Credentials struct {
	base   *url.URL
	client *http.Client
	login  Login
	now    func() time.Time
	tokens *lru.Cache[string, token] // by scopes

	mu      sync.Mutex
	basic   bool     // the registry wants Basic authentication
	realm   *url.URL // the token service; nil while none is known
	service string
}

type token struct {
	text    string
	expires time.Time
}

// NewCredentials returns the credentials for the registry at base. Token services are asked with client.
func NewCredentials(base *url.URL, client *http.Client, login Login) *Credentials {
	tokens, _ := lru.New[string, token](maxTokens)
	return &Credentials{base: base, client: client, login: login, now: time.Now, tokens: tokens}
}

// Authorize adds credentials to a request to the registry. It gets a token for the scopes if the registry wants one
// and none is cached. It does not change a request to another host.
func (c *Credentials) Authorize(ctx context.Context, r *http.Request, scopes []string) error {
	if !SameHost(r.URL, c.base) {
		return nil
	}
	c.mu.Lock()
	basic, known := c.basic, c.realm != nil
	c.mu.Unlock()
	text := c.login.Token
	switch {
	case text != "":
	case basic:
		return c.setBasic(r)
	case !known:
		return nil
	default:
		var err error
		if text, err = c.token(ctx, scopes); err != nil {
			return err
		}
	}
	r.Header.Set("Authorization", "Bearer "+text)
	return nil
}

func (c *Credentials) setBasic(r *http.Request) error {
	password := ""
	if c.login.Password != nil {
		var err error
		if password, err = c.login.Password(); err != nil {
			return err
		}
	}
	r.SetBasicAuth(c.login.Username, password)
	return nil
}

// HandleChallenge reads a 401 response: it remembers what the registry wants and forgets the token for the scopes. It
// returns a RefusedError if the credentials cannot meet the challenge, and ErrNoService if the challenge is
// malformed.
func (c *Credentials) HandleChallenge(res *http.Response, scopes []string) error {
	c.tokens.Remove(scopeKey(scopes))
	if c.login.Token != "" {
		return refused(res)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, header := range res.Header.Values("WWW-Authenticate") {
		scheme, rest, _ := strings.Cut(header, " ")
		switch {
		case strings.EqualFold(scheme, "Basic") && c.login.Username != "":
			c.basic = true
			return nil
		case strings.EqualFold(scheme, "Bearer"):
			found, err := parseChallenge(rest)
			if err != nil {
				return err
			}
			c.realm, c.service = found.realm, found.service
			return nil
		}
	}
	return refused(res)
}

func refused(res *http.Response) error {
	at := ""
	if res.Request != nil {
		at = PlainURL(res.Request.URL)
	}
	return &RefusedError{res.StatusCode, at}
}

// mayReceivePassword reports whether a token service may receive the password.
func (c *Credentials) mayReceivePassword(realm *url.URL) bool {
	return c.login.Username != "" && (SameHost(realm, c.base) || c.login.Trusts != nil && c.login.Trusts(realm))
}

func scopeKey(scopes []string) string { return strings.Join(scopes, " ") }

// token returns a token for the scopes, from the cache or from the token service.
func (c *Credentials) token(ctx context.Context, scopes []string) (string, error) {
	if cached, ok := c.tokens.Get(scopeKey(scopes)); ok && !c.now().After(cached.expires) {
		return cached.text, nil
	}
	c.mu.Lock()
	realm, service := *c.realm, c.service
	c.mu.Unlock()
	q := realm.Query()
	q.Set("service", service)
	for _, s := range scopes {
		q.Add("scope", s)
	}
	realm.RawQuery = q.Encode()
	answer, err := c.askService(ctx, &realm)
	if err != nil {
		return "", err
	}
	life := tokenLife
	if answer.ExpiresIn > 0 {
		life = time.Duration(min(answer.ExpiresIn, int64(maxTokenLife/time.Second))) * time.Second
	}
	c.tokens.Add(scopeKey(scopes), token{answer.Token, c.now().Add(life - renewBefore)})
	return answer.Token, nil
}

// tokenAnswer is the body of a token service's response. Token is not empty.
type tokenAnswer struct {
	Token       string `json:"token"`
	AccessToken string `json:"access_token"`
	ExpiresIn   int64  `json:"expires_in"` // seconds
}

func (c *Credentials) askService(ctx context.Context, at *url.URL) (tokenAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return tokenAnswer{}, err
	}
	if c.mayReceivePassword(at) {
		if err := c.setBasic(r); err != nil {
			return tokenAnswer{}, err
		}
	}
	res, err := c.client.Do(r)
	if err != nil {
		return tokenAnswer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return tokenAnswer{}, refused(res)
	}
	var answer tokenAnswer
	if err := json.NewDecoder(io.LimitReader(res.Body, maxTokenBody)).Decode(&answer); err != nil {
		return tokenAnswer{}, fmt.Errorf("its token service: %w", err)
	}
	if answer.Token == "" {
		answer.Token = answer.AccessToken
	}
	if answer.Token == "" {
		return tokenAnswer{}, ErrNoToken
	}
	return answer, nil
}
