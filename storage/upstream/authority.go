package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Bounds of tokens.
const (
	maxTokenBody = 1 << 20
	tokenLife    = time.Minute      // when the token service does not say (distribution's specification of tokens)
	tokenEarly   = 10 * time.Second // a token is renewed so long before its end
	tokensKept   = 10_000
)

// authority gets and keeps what lets requests in: Basic credentials, or tokens per scope from the service that the upstream names.
type authority struct {
	base     *url.URL
	client   *http.Client
	username string
	password string
	now      func() time.Time

	mu      sync.Mutex
	basic   bool     // the upstream wants Basic
	realm   *url.URL // of its token service; nil while none is known
	service string
	tokens  map[string]token // by scope
}

type token struct {
	text string
	ends time.Time
}

func newAuthority(base *url.URL, client *http.Client, username, password string) *authority {
	return &authority{base: base, client: client, username: username, password: password, now: time.Now, tokens: map[string]token{}}
}

// authorize adds credentials to a request, getting a token where one is needed.
func (a *authority) authorize(ctx context.Context, r *http.Request, scopes []string) error {
	a.mu.Lock()
	basic, realm := a.basic, a.realm
	kept := a.tokens[strings.Join(scopes, " ")]
	a.mu.Unlock()
	switch {
	case !sameHost(r.URL, a.base):
		return nil
	case basic:
		r.SetBasicAuth(a.username, a.password)
		return nil
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

// challengeParam is one parameter of a WWW-Authenticate header.
var challengeParam = regexp.MustCompile(`([a-zA-Z]+)="([^"]*)"`)

// learn takes from an answer of 401 what the upstream wants, and forgets the token that was not good enough.
func (a *authority) learn(res *http.Response, scopes []string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.tokens, strings.Join(scopes, " "))
	for _, header := range res.Header.Values("WWW-Authenticate") {
		scheme, rest, _ := strings.Cut(header, " ")
		switch {
		case strings.EqualFold(scheme, "Basic") && a.username != "":
			a.basic = true
			return nil
		case strings.EqualFold(scheme, "Bearer"):
			params := map[string]string{}
			for _, m := range challengeParam.FindAllStringSubmatch(rest, -1) {
				params[strings.ToLower(m[1])] = m[2]
			}
			realm, err := url.Parse(params["realm"])
			if err != nil || realm.Host == "" || realm.Scheme != "https" && realm.Scheme != "http" {
				return unavailable(errors.New("its token service has no URL"))
			}
			a.realm, a.service = realm, params["service"]
			return nil
		}
	}
	return refused("the request", res, nil)
}

// mayKnow says whether a token service may be told the password: only the upstream's own. Another host, even one of the same
// domain, gets anonymous requests: nothing but the upstream's word says that it belongs to it.
func (a *authority) mayKnow(realm *url.URL) bool { return sameHost(realm, a.base) }

// sameHost says whether two URLs have the same scheme, host and port.
func sameHost(a, b *url.URL) bool { return a.Scheme == b.Scheme && a.Host == b.Host }

// Bounds of redirects.
const maxRedirects = 10

// leaveCredentials lets a redirect to another host go there without credentials. net/http alone carries them to other ports and
// schemes of a host, and to the hosts below it.
func leaveCredentials(r *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return errors.New("too many redirects")
	}
	if !sameHost(r.URL, via[0].URL) {
		r.Header.Del("Authorization")
		r.Header.Del("Referer") // an upload's location lets in whoever knows it
	}
	return nil
}

// fetch gets a token for scopes and keeps it.
func (a *authority) fetch(ctx context.Context, scopes []string) (token, error) {
	a.mu.Lock()
	to, service := *a.realm, a.service
	a.mu.Unlock()
	q := to.Query()
	q.Set("service", service)
	for _, s := range scopes {
		q.Add("scope", s)
	}
	to.RawQuery = q.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return token{}, err
	}
	if a.username != "" && a.mayKnow(&to) {
		r.SetBasicAuth(a.username, a.password)
	}
	res, err := a.client.Do(r)
	if err != nil {
		return token{}, unavailable(err)
	}
	defer drain(res)
	if res.StatusCode != http.StatusOK {
		return token{}, refused("a token", res, nil)
	}
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxTokenBody)).Decode(&answer); err != nil {
		return token{}, unavailable(fmt.Errorf("its token service: %w", err))
	}
	if answer.Token == "" {
		answer.Token = answer.AccessToken
	}
	if answer.Token == "" {
		return token{}, unavailable(errors.New("its token service: no token in the answer"))
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
