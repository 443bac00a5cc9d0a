package mirror

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
)

// ErrCorrupt says that content of the remote is missing or wrong permanently: a blob that a manifest references and
// the remote does not have, or bytes that do not match their digest. A retry does not help; other images of the
// remote may be complete.
var ErrCorrupt = errors.New("the content is corrupt")

func corrupt(format string, args ...any) error {
	return fault.Wrap(fault.Unavailable, ErrCorrupt, format, args...)
}

func (g *Registry) manifestRequest(method, reference string) request {
	return request{
		method: method, url: g.repository("/manifests/" + reference), header: http.Header{"Accept": {registryclient.ManifestTypes}},
	}
}

// Head returns the descriptor of a manifest, by tag or digest, as the remote answers to HEAD. It returns a NotFound
// error if the remote does not have the manifest.
func (g *Registry) Head(ctx context.Context, reference string) (Descriptor, error) {
	if !wellFormed(reference) {
		return Descriptor{}, malformed(reference)
	}
	res, err := g.do(ctx, g.manifestRequest(http.MethodHead, reference))
	if err != nil {
		return Descriptor{}, err
	}
	if res.StatusCode != http.StatusOK {
		return Descriptor{}, refused(res)
	}
	drain(res)
	d := Descriptor{
		MediaType: mediaType(res.Header), Digest: digest.Digest(res.Header.Get("Docker-Content-Digest")), Size: res.ContentLength,
	}
	if !supported(d.Digest) {
		d.Digest = ""
	}
	return d, nil
}

// mayAnswerGET reports whether a registry that answers HEAD with a status may still answer GET.
func mayAnswerGET(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable,
		http.StatusNotImplemented:
		return true
	}
	return false
}

// Resolve returns the digest of a reference. It asks with HEAD, and with GET if the remote refuses HEAD or answers
// without a digest; then it returns the manifest too. It returns a NotFound error if the remote does not have the
// manifest.
func (g *Registry) Resolve(ctx context.Context, reference string) (digest.Digest, *Manifest, error) {
	found, err := g.Head(ctx, reference)
	if refused, ok := errors.AsType[*refusal](err); err != nil && (!ok || !mayAnswerGET(refused.status)) {
		return "", nil, err
	}
	if err == nil && found.Digest != "" {
		return found.Digest, nil, nil
	}
	m, err := g.Manifest(ctx, reference)
	if err != nil {
		return "", nil, err
	}
	return m.Digest, &m, nil
}

// supported reports whether a digest is well-formed and of an algorithm that this server stores.
func supported(d digest.Digest) bool {
	return d.Validate() == nil && (d.Algorithm() == digest.SHA256 || d.Algorithm() == digest.SHA512)
}

// wellFormed reports whether a reference is a tag or a supported digest, and so cannot lead to another path of the
// remote.
func wellFormed(reference string) bool {
	return pulp.ValidTag(reference) || supported(digest.Digest(reference))
}

func malformed(reference string) error {
	return fault.New(fault.Invalid, "%.200q is neither a tag nor a sha256 or sha512 digest.", reference)
}

func mediaType(h http.Header) string {
	name, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.TrimSpace(name)
}

// Manifest returns the exact bytes of a manifest, by tag or digest. By digest the bytes match it; otherwise the error
// is ErrCorrupt. It returns a NotFound error if the remote does not have the manifest.
func (g *Registry) Manifest(ctx context.Context, reference string) (Manifest, error) {
	if !wellFormed(reference) {
		return Manifest{}, malformed(reference)
	}
	answer, err := g.document(ctx, g.manifestRequest(http.MethodGet, reference), pulp.MaxManifestSize)
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{mediaType(answer.Header), digest.FromBytes(answer.Body), answer.Body}
	if want := digest.Digest(reference); supported(want) {
		m.Digest = want.Algorithm().FromBytes(answer.Body)
		if m.Digest != want {
			return Manifest{}, corrupt("The remote answers with other bytes than those of %s.", want)
		}
	}
	return m, nil
}
