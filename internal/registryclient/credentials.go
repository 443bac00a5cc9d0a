// Package registryclient gets and keeps what lets requests into another registry: Basic credentials, or tokens per scope from the service that the
// registry names (distribution's specification of token authentication).
//
// Credentials go to the registry's own scheme, host and port, and to the token services that the caller trusts with them. Other services are asked
// anonymously.
package registryclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bounds of tokens.
const (
	maxTokenBody = 1 << 20
	tokenLife    = time.Minute      // when the token service does not say (distribution's specification of tokens)
	tokenEarly   = 10 * time.Second // a token is renewed so long before its end
	tokenWait    = time.Minute      // how long a token service may take
	tokensKept   = 10_000
)

// Errors of an Authority.
var (
	ErrNoService = errors.New("its token service has no URL")
	ErrNoToken   = errors.New("its token service: no token in the answer")
)

// RefusedError says that the registry, or its token service, lets nobody in with what there is.
type RefusedError struct {
	Status int
	URL    string // without its query
}

// Error names the status.
func (e *RefusedError) Error() string { return fmt.Sprintf("%d at %s", e.Status, e.URL) }

// Authority lets requests into one registry. It is safe for concurrent use.
type Authority struct {
	// Password returns the password of now: the one that New was given, where nobody sets another before the first request.
	Password func() (string, error)

	base     *url.URL
	client   *http.Client
	username string
	trusted  func(realm *url.URL) bool
	fixed    string // a token that is good for everything; empty: none is
	now      func() time.Time

	mu      sync.Mutex
	basic   bool     // the registry wants Basic
	realm   *url.URL // of its token service; nil while none is known
	service string
	tokens  map[string]token // by scope
}

type token struct {
	text string
	ends time.Time
}

// New returns the authority over the registry at base. The client asks token services. An empty username is nobody's; trusted says which token services beside the registry's own
// host may be told the password, nil is none.
func New(base *url.URL, client *http.Client, username, password string, trusted func(realm *url.URL) bool) *Authority {
	return &Authority{
		Password: func() (string, error) { return password, nil },
		base:     base, client: client, username: username, trusted: trusted, now: time.Now, tokens: map[string]token{},
	}
}

// Fixed returns the authority over the registry at base that has one token for everything.
func Fixed(base *url.URL, text string) *Authority {
	return &Authority{base: base, fixed: text, now: time.Now, tokens: map[string]token{}}
}

// Authorize adds credentials to a request to the registry, getting a token for the scopes where one is needed. A request to another host is left alone.
func (a *Authority) Authorize(ctx context.Context, r *http.Request, scopes []string) error {
	a.mu.Lock()
	basic, realm := a.basic, a.realm
	kept := a.tokens[strings.Join(scopes, " ")]
	a.mu.Unlock()
	switch {
	case !SameHost(r.URL, a.base):
		return nil
	case a.fixed != "":
		r.Header.Set("Authorization", "Bearer "+a.fixed)
		return nil
	case basic:
		return a.setBasic(r)
	case realm == nil:
		return nil
	}
	if kept.text == "" || a.now().After(kept.ends) {
		var err error
		if kept, err = a.fetch(ctx, scopes); err != nil {
			return err
		}
	}
	r.Header.Set("Authorization", "Bearer "+kept.text)
	return nil
}

func (a *Authority) setBasic(r *http.Request) error {
	password, err := a.Password()
	if err == nil {
		r.SetBasicAuth(a.username, password)
	}
	return err
}

// challengeParam is one parameter of a WWW-Authenticate header.
var challengeParam = regexp.MustCompile(`([a-zA-Z]+)="([^"]*)"`)

// Learn takes from an answer of 401 what the registry wants, and forgets the token that was not good enough.
func (a *Authority) Learn(res *http.Response, scopes []string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.tokens, strings.Join(scopes, " "))
	if a.fixed != "" {
		return refused(res)
	}
	for _, header := range res.Header.Values("WWW-Authenticate") {
		scheme, rest, _ := strings.Cut(header, " ")
		switch {
		case strings.EqualFold(scheme, "Basic") && a.username != "":
			a.basic = true
			return nil
		case strings.EqualFold(scheme, "Bearer"):
			realm, params, err := challenge(rest)
			if err != nil {
				return err
			}
			a.realm, a.service = realm, params["service"]
			return nil
		}
	}
	return refused(res)
}

// challenge returns the token service that a Bearer challenge names, and its parameters by lower-case name.
func challenge(text string) (*url.URL, map[string]string, error) {
	params := map[string]string{}
	for _, m := range challengeParam.FindAllStringSubmatch(text, -1) {
		params[strings.ToLower(m[1])] = m[2]
	}
	realm, err := url.Parse(params["realm"])
	if err != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != "http" {
		return nil, nil, ErrNoService
	}
	return realm, params, nil
}

// Challenge returns the token service and the scopes that the first Bearer challenge of an answer names. ok is false when there is none.
func Challenge(res *http.Response) (realm *url.URL, scopes []string, ok bool) {
	for _, header := range res.Header.Values("WWW-Authenticate") {
		scheme, rest, _ := strings.Cut(header, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			continue
		}
		realm, params, err := challenge(rest)
		if err != nil {
			return nil, nil, false
		}
		return realm, strings.Fields(params["scope"]), true
	}
	return nil, nil, false
}

func refused(res *http.Response) error {
	at := ""
	if res.Request != nil {
		at = Plain(res.Request.URL)
	}
	return &RefusedError{res.StatusCode, at}
}

// Plain is a URL without its query and user, which may be secrets.
func Plain(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// mayKnow says whether a token service may be told the password.
func (a *Authority) mayKnow(realm *url.URL) bool {
	return a.username != "" && (SameHost(realm, a.base) || a.trusted != nil && a.trusted(realm))
}

// SameHost says whether two URLs have the same scheme, host and port.
func SameHost(a, b *url.URL) bool { return a.Scheme == b.Scheme && place(a) == place(b) }

// OneOf says whether a URL's host and port are one of those in a list of host[:port]; without a port it is that of the URL's scheme.
func OneOf(u *url.URL, hosts []string) bool {
	return slices.ContainsFunc(hosts, func(host string) bool {
		return host != "" && place(&url.URL{Scheme: u.Scheme, Host: host}) == place(u)
	})
}

// place is a URL's host and port; many registries and proxies write the port that the scheme has anyhow.
func place(u *url.URL) string {
	host, standard := strings.ToLower(u.Host), map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
	if standard == "" {
		return host
	}
	return strings.TrimSuffix(host, standard)
}

// fetch gets a token for scopes and keeps it.
func (a *Authority) fetch(ctx context.Context, scopes []string) (token, error) {
	a.mu.Lock()
	to, service := *a.realm, a.service
	a.mu.Unlock()
	q := to.Query()
	q.Set("service", service)
	for _, s := range scopes {
		q.Add("scope", s)
	}
	to.RawQuery = q.Encode()
	ctx, cancel := context.WithTimeout(ctx, tokenWait)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return token{}, err
	}
	if a.mayKnow(&to) {
		if err := a.setBasic(r); err != nil {
			return token{}, err
		}
	}
	res, err := a.client.Do(r)
	if err != nil {
		return token{}, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return token{}, refused(res)
	}
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxTokenBody)).Decode(&answer); err != nil {
		return token{}, fmt.Errorf("its token service: %w", err)
	}
	if answer.Token == "" {
		answer.Token = answer.AccessToken
	}
	if answer.Token == "" {
		return token{}, ErrNoToken
	}
	life := tokenLife
	if answer.ExpiresIn > 0 {
		life = time.Duration(min(answer.ExpiresIn, 24*3600)) * time.Second
	}
	t := token{answer.Token, a.now().Add(life - tokenEarly)}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.tokens) >= tokensKept {
		clear(a.tokens)
	}
	a.tokens[strings.Join(scopes, " ")] = t
	return t, nil
}
