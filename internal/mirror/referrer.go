package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
)

// Bounds of a list of referrers.
const (
	maxReferrers     = 1_000
	maxReferrerPages = 20
)

// Referrer is the descriptor of a manifest with a subject.
type Referrer struct {
	Digest       digest.Digest     `json:"digest"`
	ArtifactType string            `json:"artifactType"`
	Annotations  map[string]string `json:"annotations"`
}

// Signs reports whether the referrer is a signature of its subject, as IsSignature does.
func (r Referrer) Signs() bool { return IsSignature(r.ArtifactType, r.Annotations) }

// bundleType is the prefix of the artifact types of Sigstore bundles of all versions.
const bundleType = "application/vnd.dev.sigstore.bundle."

// IsSignature reports whether a referrer with an artifact type and annotations is a signature of its subject: one of
// cosign, as a manifest or a bundle, or one of notation. Bundles with another predicate, such as attestations, are
// not.
func IsSignature(artifactType string, annotations map[string]string) bool {
	switch artifactType {
	case "application/vnd.dev.cosign.artifact.sig.v1+json", "application/vnd.cncf.notary.signature":
		return true
	}
	predicate := annotations["dev.sigstore.bundle.predicateType"]
	signs := predicate == "" || strings.HasPrefix(predicate, "https://sigstore.dev/cosign/sign/")
	return signs && strings.HasPrefix(artifactType, bundleType)
}

// Referrers returns the referrers of a manifest from the remote's referrers API, each once and with a supported
// digest. answered is false if the remote does not have that API; then a tag may list them (OCI distribution
// specification 1.1, "Referrers Tag Schema").
func (g *Registry) Referrers(ctx context.Context, d digest.Digest) (found []Referrer, answered bool, err error) {
	if !supported(d) {
		return nil, false, malformed(string(d))
	}
	at := g.repository("/referrers/" + string(d))
	for range maxReferrerPages {
		page, err := g.document(ctx, request{method: http.MethodGet, url: at}, pulp.MaxManifestSize)
		if refused, ok := errors.AsType[*refusal](err); ok && mayAnswerGET(refused.status) {
			return nil, false, nil
		} else if err != nil {
			return nil, false, err
		}
		more, err := readReferrers(page.Body)
		if err != nil {
			return nil, false, fault.Wrap(fault.Unavailable, err, "The remote's list of referrers cannot be read, url='%s'",
				registryclient.PlainURL(page.URL))
		}
		if found = merge(found, more); len(found) > maxReferrers {
			return nil, false, fault.New(fault.Unavailable, "The remote has more than %d referrers of %s.", maxReferrers, d)
		}
		next, err := registryclient.NextPage(page.URL, page.Header)
		if err != nil {
			return nil, false, fault.Wrap(fault.Denied, err, "The remote's list of referrers goes on elsewhere; that is refused.")
		}
		if next == nil {
			return found, true, nil
		}
		at = next
	}
	return nil, false, fault.New(fault.Unavailable, "The remote's list of referrers has more than %d pages.", maxReferrerPages)
}

// ReferrersIn returns the referrers that an index lists: the manifest under the tag of the referrers tag schema. It
// returns an error if the manifest is not an index.
func ReferrersIn(m Manifest) ([]Referrer, error) {
	found, err := readReferrers(m.Payload)
	if err != nil || len(found) > maxReferrers {
		return nil, fault.Wrap(fault.Unavailable, err, "The remote's index of referrers %s cannot be read.", m.Digest)
	}
	return merge(nil, found), nil
}

func readReferrers(body []byte) ([]Referrer, error) {
	var index struct {
		Manifests *[]Referrer `json:"manifests"`
	}
	if err := json.Unmarshal(body, &index); err != nil {
		return nil, err
	}
	if index.Manifests == nil {
		return nil, errors.New("it lists no manifests")
	}
	return *index.Manifests, nil
}

// merge appends referrers to others, each digest once, without unsupported digests.
func merge(found, more []Referrer) []Referrer {
	for _, r := range more {
		if supported(r.Digest) && !slices.ContainsFunc(found, func(other Referrer) bool { return other.Digest == r.Digest }) {
			found = append(found, r)
		}
	}
	return found
}
