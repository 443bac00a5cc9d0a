// Package clientaddr determines the address of a request's client behind trusted proxies.
//
// It imports no other package of this module.
package clientaddr

import (
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

const header = "X-Forwarded-For"

// Limits of the warnings about untrusted peers.
const (
	maxWarned    = 1024 // peers whose warning is remembered; the least recently used are evicted
	warningEvery = time.Minute
	warningBurst = 10
)

// Resolver determines client addresses. Create it with New.
type Resolver struct {
	trusted  []netip.Prefix
	log      *slog.Logger
	warned   *lru.Cache[netip.Addr, struct{}]
	warnings *rate.Limiter
}

// New returns a Resolver that accepts X-Forwarded-For from proxies in the trusted networks. If another peer sends the
// header it logs a warning, once for each peer and at most once a minute on average.
func New(trusted []netip.Prefix, log *slog.Logger) *Resolver {
	warned, err := lru.New[netip.Addr, struct{}](maxWarned)
	if err != nil { // the size is a positive constant
		panic(err)
	}
	warnings := rate.NewLimiter(rate.Every(warningEvery), warningBurst)
	return &Resolver{trusted: trusted, log: log, warned: warned, warnings: warnings}
}

// Handler sets RemoteAddr to the client's address, without a port, if a trusted proxy sent the request and reported its
// client. Other requests keep RemoteAddr, the peer's address and port. Then it calls next.
func (v *Resolver) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if forwarded := r.Header.Values(header); len(forwarded) > 0 {
			if client, ok := v.client(r, forwarded); ok {
				r = r.WithContext(r.Context()) // a handler must not modify the request of its caller
				r.RemoteAddr = client.String()
			}
		}
		next.ServeHTTP(w, r)
	})
}

// client returns the rightmost address in X-Forwarded-For that is not a trusted proxy. Each proxy appends its own peer, so
// the client itself may have written any addresses further to the left. A value that is not an address ends the search:
// then the hop that reported it is the client.
func (v *Resolver) client(r *http.Request, forwarded []string) (netip.Addr, bool) {
	peer, ok := parse(r.RemoteAddr)
	if !ok {
		return netip.Addr{}, false
	}
	if !v.trusts(peer) {
		v.warn(r, peer)
		return netip.Addr{}, false
	}
	client, found := peer, false
	for _, text := range slices.Backward(strings.Split(strings.Join(forwarded, ","), ",")) {
		hop, ok := parse(strings.TrimSpace(text))
		if !ok {
			break
		}
		client, found = hop, true
		if !v.trusts(hop) {
			break
		}
	}
	return client, found
}

func (v *Resolver) trusts(a netip.Addr) bool {
	return slices.ContainsFunc(v.trusted, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (v *Resolver) warn(r *http.Request, peer netip.Addr) {
	if v.warned.Contains(peer) || !v.warnings.Allow() {
		return
	}
	v.warned.Add(peer, struct{}{})
	v.log.WarnContext(
		r.Context(),
		"X-Forwarded-For from a peer that is not in trusted_proxies is ignored; "+
			"add the peer if it is your proxy, or all its clients share one limit of failed logins",
		slog.String("peer", peer.String()),
	)
}

// parse parses an address of the form address, address:port or [address]:port. It returns IPv4-mapped addresses as IPv4,
// and all addresses without zones.
func parse(text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		with, portErr := netip.ParseAddrPort(text)
		a, err = with.Addr(), portErr
	}
	return a.Unmap().WithZone(""), err == nil
}

// Network returns the network by which limits per client count a client: the IPv4 address, or the /64 of the IPv6
// address. client is the RemoteAddr of a request, with or without a port. The result is the zero Prefix if client is not
// an address.
func Network(client string) netip.Prefix {
	addr, ok := parse(client)
	if !ok {
		return netip.Prefix{}
	}
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	p, _ := addr.Prefix(bits)
	return p
}
