package registryclient

import (
	"context"
	"net/http"
	"net/url"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/countersign/countersign/internal/fault"
)

// maxGuests bounds the hosts of redirects for which a client keeps tokens.
const maxGuests = 16

// guests keeps anonymous tokens for the hosts that an untrusted registry redirects to. They never receive the
// registry's credentials. It is safe for concurrent use.
type guests struct {
	client *http.Client

	once  sync.Once
	mu    sync.Mutex
	hosts *lru.Cache[string, guest] // by origin
}

// guest is a host that asks for tokens.
type guest struct {
	credentials *Credentials // without a user
	scopes      []string     // that the host asked for last
}

func (g *guests) known() *lru.Cache[string, guest] {
	g.once.Do(func() { g.hosts, _ = lru.New[string, guest](maxGuests) })
	return g.hosts
}

// handleChallenge reads the 401 response of a host. It returns a RefusedError if the host offers no anonymous tokens,
// and a Denied error if a host with https names a token service without.
func (g *guests) handleChallenge(res *http.Response) error {
	at := res.Request.URL
	found, ok := firstBearer(res)
	if !ok {
		return refused(res)
	}
	if at.Scheme == "https" && found.realm.Scheme != "https" {
		return fault.New(fault.Denied, "The remote redirects to %s, whose token service %s does not speak https; that is refused.",
			at.Host, found.realm.Host)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	host, known := g.known().Get(origin(at))
	if !known {
		host.credentials = NewCredentials(&url.URL{Scheme: at.Scheme, Host: at.Host}, g.client, Login{})
	}
	host.scopes = found.scopes
	g.known().Add(origin(at), host)
	return host.credentials.HandleChallenge(res, host.scopes)
}

// authorize adds a token to a request to a host that has asked for one.
func (g *guests) authorize(ctx context.Context, r *http.Request) error {
	host, known := g.known().Get(origin(r.URL))
	if !known {
		return nil
	}
	return host.credentials.Authorize(context.WithValue(ctx, redirectRules{}, redirectRules{}), r, host.scopes)
}
