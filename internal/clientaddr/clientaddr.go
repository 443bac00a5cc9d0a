// Package clientaddr finds the address of a request's client behind trusted proxies.
//
// It imports nothing of this project.
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

// Bounds of the warnings about untrusted peers.
const (
	maxWarned    = 1024 // peers that have been warned about and are remembered
	warningEvery = time.Minute
	warningBurst = 10
)

// Resolver determines client addresses. Make one with New.
type Resolver struct {
	trusted  []netip.Prefix
	log      *slog.Logger
	warned   *lru.Cache[netip.Addr, struct{}]
	warnings *rate.Limiter
}

// New returns a Resolver that believes X-Forwarded-For from proxies in the trusted networks. It warns in log, once for each peer and not more than
// once a minute on average, when another peer sends the header.
func New(trusted []netip.Prefix, log *slog.Logger) *Resolver {
	warned, err := lru.New[netip.Addr, struct{}](maxWarned)
	if err != nil { // the size is a positive constant
		panic(err)
	}
	return &Resolver{trusted: trusted, log: log, warned: warned, warnings: rate.NewLimiter(rate.Every(warningEvery), warningBurst)}
}

// Handler calls next with RemoteAddr set to the client's address, without a port, when the request came through a trusted proxy that named its
// client. Other requests keep RemoteAddr, the peer's address and port.
func (v *Resolver) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if forwarded := r.Header.Values(header); len(forwarded) > 0 {
			if client, ok := v.client(r, forwarded); ok {
				r = r.WithContext(r.Context()) // a copy: the request is not ours to change
				r.RemoteAddr = client.String()
			}
		}
		next.ServeHTTP(w, r)
	})
}

// client returns the rightmost address in X-Forwarded-For that is no trusted proxy. Each proxy appends its own peer, so addresses further to the left
// are only what that client says. A value that is no address ends the search: the client is then the hop that reported it.
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
	v.log.WarnContext(r.Context(), "X-Forwarded-For from a peer that is not in trusted_proxies is ignored; add the peer if it is your proxy, or all its clients share one limit of failed logins", slog.String("peer", peer.String()))
}

// parse returns the address in a text of the form address, address:port or [address]:port; IPv4-mapped addresses as IPv4, without zones.
func parse(text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		with, portErr := netip.ParseAddrPort(text)
		a, err = with.Addr(), portErr
	}
	return a.Unmap().WithZone(""), err == nil
}

// Network returns the network that stands for a client where clients share something bounded: the address, of IPv6 the /64. client is an http.Request's RemoteAddr, with
// or without a port; one that is no address has the zero Prefix.
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
