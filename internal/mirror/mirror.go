// Package mirror reads repositories of remote registries: tags, manifests, blobs, referrers and signatures. It stores
// nothing.
//
// Remotes are not trusted. Every response is bounded in size, count and time; content with a digest is compared with
// it; and connections follow the rules for untrusted registries of internal/registryclient, which refuse private
// addresses (compatibility.md#private-addresses).
package mirror

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
)

// Options apply to all remotes.
type Options struct {
	// AllowPrivate are private addresses that remotes may be on (mirror.allow_private_addresses).
	AllowPrivate []netip.Prefix
	// UserAgent names this program in requests; empty means countersign.
	UserAgent string
	// Log receives retries and content that is left out; nil means no log.
	Log *slog.Logger
	// Pace is the minimum rate of responses; the zero Pace means registryclient.DefaultPace.
	Pace registryclient.Pace
	// BlobTimeout bounds the download of one blob over all its connections; 0 means no bound.
	BlobTimeout time.Duration
	// WrapTransport wraps the transport of each remote; nil means none.
	WrapTransport func(http.RoundTripper) http.RoundTripper
	// Lookup resolves host names; nil means the resolver of the system.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Network opens remotes. It is safe for concurrent use.
type Network struct{ Options }

// New returns a network.
func New(o Options) *Network {
	if o.UserAgent == "" {
		o.UserAgent = "countersign"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Network{o}
}

func (n *Network) guard() registryclient.Guard {
	return registryclient.Guard{Allow: n.AllowPrivate, Lookup: n.Lookup}
}

// Registry is one repository of a remote registry. It is safe for concurrent use.
type Registry struct {
	network  *Network
	remote   pulp.Remote
	base     *url.URL // without a closing slash
	name     string   // of the repository
	sigstore *url.URL // of files with signatures; nil without them
	client   *registryclient.Client
	close    func()

	// Skipped is called for each item that a method leaves out, with its name, by several goroutines; nil means no
	// call.
	Skipped func(kind Skipped, name string)
}

// Skipped is a kind of content that a Registry leaves out.
type Skipped int

// The kinds of content that a Registry leaves out.
const (
	SkippedTag       Skipped = iota // a tag with a malformed name
	SkippedSignature                // a signature of an unknown form; the name is the digest of its manifest
)

func (g *Registry) skip(kind Skipped, name string) {
	if g.Skipped != nil {
		g.Skipped(kind, name)
	}
}

// Location returns the URL of the registry, without a closing slash, and the name of the repository, both as they are
// in requests.
func (g *Registry) Location() (registry, name string) { return g.base.String(), g.name }

// Descriptor is the result of HEAD for a manifest.
type Descriptor struct {
	MediaType string
	Digest    digest.Digest // empty if the response has none
	Size      int64
}

// Manifest is the exact bytes of a manifest and their digest.
type Manifest struct {
	MediaType string
	Digest    digest.Digest
	Payload   []byte
}

// hubHosts are the usual names of Docker Hub; the last one has its API.
var hubHosts = []string{"docker.io", "index.docker.io", "hub.docker.com", "registry-1.docker.io"}

// IsDockerHub reports whether a URL is that of Docker Hub, where names without a slash mean official images.
func IsDockerHub(text string) bool {
	u, ok := registryclient.ParseURL(text)
	return ok && slices.Contains(hubHosts, u.Hostname())
}

// Open returns the repository of a remote. It sends no request. It returns an Invalid error if a setting of the
// remote cannot be used. The caller calls Close.
func (n *Network) Open(r pulp.Remote) (*Registry, error) {
	base, ok := registryclient.ParseURL(r.URL)
	if !ok {
		return nil, fault.New(fault.Invalid, "The remote's url is not http(s)://host[:port] without a user.")
	}
	g := &Registry{network: n, remote: r, base: base, name: strings.Trim(r.UpstreamName, "/")}
	if slices.Contains(hubHosts, base.Hostname()) {
		base.Host = hubHosts[len(hubHosts)-1]
		if !strings.Contains(g.name, "/") {
			g.name = "library/" + g.name
		}
	}
	if !pulp.ValidName(g.name) {
		return nil, fault.New(fault.Invalid, "The remote's upstream_name %q is not the name of a repository.", r.UpstreamName)
	}
	if r.Sigstore != nil {
		if g.sigstore, ok = registryclient.ParseURL(*r.Sigstore); !ok {
			return nil, fault.New(fault.Invalid, "The remote's sigstore is not an http or https URL.")
		}
	}
	if err := g.connect(); err != nil {
		return nil, err
	}
	return g, nil
}

// Close closes idle connections.
func (g *Registry) Close() { g.close() }
