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

// Referrer is a manifest that refers to another, as a remote lists it.
type Referrer struct {
	Digest       digest.Digest     `json:"digest"`
	ArtifactType string            `json:"artifactType"`
	Annotations  map[string]string `json:"annotations"`
}

// Signs reports whether the referrer is a signature of its subject: of cosign, as a manifest of its own or a bundle, or of notation. Bundles that state something
// else, such as attestations, are none.
func (r Referrer) Signs() bool { return IsSignature(r.ArtifactType, r.Annotations) }

// bundles begins the artifact types of Sigstore bundles, whatever their version.
const bundles = "application/vnd.dev.sigstore.bundle."

// IsSignature reports whether a manifest of an artifact type and annotations that refers to another one signs it.
func IsSignature(artifactType string, annotations map[string]string) bool {
	switch artifactType {
	case "application/vnd.dev.cosign.artifact.sig.v1+json", "application/vnd.cncf.notary.signature":
		return true
	}
	states := annotations["dev.sigstore.bundle.predicateType"]
	return strings.HasPrefix(artifactType, bundles) && (states == "" || strings.HasPrefix(states, "https://sigstore.dev/cosign/sign/"))
}

// Referrers returns the manifests that refer to a manifest, by the remote's referrers API. answered is false when the remote has no such API; then a tag may name
// them (OCI distribution specification 1.1, "Referrers Tag Schema"). Each digest is well-formed, and is there once.
func (g *Registry) Referrers(ctx context.Context, d digest.Digest) (found []Referrer, answered bool, err error) {
	if !known(d) {
		return nil, false, unknown(string(d))
	}
	at := g.at("/v2/" + g.name + "/referrers/" + string(d))
	for range maxReferrerPages {
		answer, err := g.document(ctx, request{method: http.MethodGet, url: at}, pulp.MaxManifestSize)
		if refused, ok := errors.AsType[*refusal](err); ok && headRefused(refused.status) {
			return nil, false, nil
		} else if err != nil {
			return nil, false, err
		}
		at = answer.url
		more, err := readReferrers(answer.body)
		if err != nil {
			return nil, false, fault.Wrap(fault.Unavailable, err, "The remote's list of referrers cannot be read, url='%s'", registryclient.Plain(at))
		}
		if found = merge(found, more); len(found) > maxReferrers {
			return nil, false, fault.New(fault.Unavailable, "The remote has more than %d referrers of %s.", maxReferrers, d)
		}
		next, err := registryclient.NextPage(at, answer.header)
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

// ReferrersIn returns the referrers that an index lists: the manifest under the tag of the referrers tag schema. It is an error when the manifest is no index.
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

// merge adds referrers to others, each digest once, without those that are not well-formed.
func merge(found, more []Referrer) []Referrer {
	for _, r := range more {
		if known(r.Digest) && !slices.ContainsFunc(found, func(other Referrer) bool { return other.Digest == r.Digest }) {
			found = append(found, r)
		}
	}
	return found
}
