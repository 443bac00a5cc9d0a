package mirror

import (
	"context"
	"net/http"
	"net/url"
	"sync"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/registryclient"
)

// maxGuests bounds the hosts of redirects of which a Registry keeps tokens.
const maxGuests = 16

// guests keeps anonymous tokens for hosts that the remote redirects to. Such a host never sees the remote's credentials. It is safe for concurrent use.
type guests struct {
	client *http.Client

	mu    sync.Mutex
	hosts map[string]*guest // by scheme and host
}

// guest is one host that wants tokens.
type guest struct {
	authority *registryclient.Authority
	scopes    []string // that the host asked for last
}

func hostOf(u *url.URL) string { return u.Scheme + "://" + u.Host }

// learn takes the challenge of a host from its answer of 401. It is an error when the host offers no anonymous tokens. A host that speaks https may not name a
// token service that does not.
func (g *guests) learn(res *http.Response) error {
	at := res.Request.URL
	realm, scopes, ok := registryclient.Challenge(res)
	if !ok {
		return &registryclient.RefusedError{Status: res.StatusCode, URL: registryclient.Plain(at)}
	}
	if at.Scheme == "https" && realm.Scheme != "https" {
		return fault.New(fault.Denied, "The remote redirects to %s, whose token service %s does not speak https; that is refused.", at.Host, realm.Host)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	host := hostOf(at)
	known := g.hosts[host]
	if known == nil {
		if g.hosts == nil || len(g.hosts) >= maxGuests {
			g.hosts = map[string]*guest{}
		}
		known = &guest{authority: registryclient.New(&url.URL{Scheme: at.Scheme, Host: at.Host}, g.client, "", "", nil)}
	}
	g.hosts[host] = &guest{known.authority, scopes}
	return known.authority.Learn(res, scopes)
}

// authorize adds a token to a request to a host that has asked for one.
func (g *guests) authorize(ctx context.Context, r *http.Request) error {
	g.mu.Lock()
	known := g.hosts[hostOf(r.URL)]
	g.mu.Unlock()
	if known == nil {
		return nil
	}
	return known.authority.Authorize(context.WithValue(ctx, redirectable{}, nil), r, known.scopes)
}
