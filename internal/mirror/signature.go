package mirror

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/registryclient"
)

// Source is where a remote's signatures are.
type Source int

// The sources of signatures (contract 6, step 1).
const (
	NoSignatures Source = iota
	Extension           // the registry's own extension endpoint
	Lookaside           // files behind a URL
)

// Signature is a signature as a remote has it.
type Signature struct {
	Name    string // as the extension endpoint says; empty from files
	Content []byte
}

// maxLookaside is how many signatures of one manifest are looked for in files.
const maxLookaside = 100

// SignatureSource finds out where the remote's signatures are.
func (g *Registry) SignatureSource(ctx context.Context) (Source, error) {
	if g.sigstore != nil {
		return Lookaside, nil
	}
	res, err := g.do(ctx, request{method: http.MethodGet, url: g.at("/v2/"), anonymous: true})
	if err != nil {
		return NoSignatures, err
	}
	if passing(res.StatusCode) || res.StatusCode >= http.StatusInternalServerError { // an outage says nothing about signatures
		return NoSignatures, refused(res)
	}
	drain(res)
	if res.Header.Get("X-Registry-Supports-Signatures") == "1" {
		return Extension, nil
	}
	return NoSignatures, nil
}

// Signatures returns a manifest's signatures from a source, unjudged. They are nil when the remote does not answer for the manifest, and empty when it says that
// there are none; files cannot say that.
func (g *Registry) Signatures(ctx context.Context, from Source, d digest.Digest) ([]Signature, error) {
	if !known(d) {
		return nil, unknown(string(d))
	}
	switch from {
	case Extension:
		return g.extension(ctx, d)
	case Lookaside:
		return g.lookaside(ctx, d)
	case NoSignatures:
	}
	return nil, nil
}

func (g *Registry) extension(ctx context.Context, d digest.Digest) ([]Signature, error) {
	at := g.at("/extensions/v2/" + g.name + "/signatures/" + string(d))
	answer, err := g.document(ctx, request{method: http.MethodGet, url: at}, pulp.MaxSignatureBody)
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var list struct {
		Signatures []struct {
			SchemaVersion int    `json:"schemaVersion"`
			Type          string `json:"type"`
			Name          string `json:"name"`
			Content       string `json:"content"`
		} `json:"signatures"`
	}
	if err := json.Unmarshal(answer.body, &list); err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "The remote's list of signatures is not JSON, url='%s'", registryclient.Plain(at))
	}
	found := []Signature{}
	for _, s := range list.Signatures {
		content, err := base64.StdEncoding.DecodeString(s.Content)
		if s.SchemaVersion != 2 || s.Type != "atomic" || err != nil {
			g.skip(SkippedSignature, string(d))
			continue
		}
		found = append(found, Signature{s.Name, content})
	}
	return found, nil
}

// lookaside reads signature-1, signature-2 and so on until there is none.
func (g *Registry) lookaside(ctx context.Context, d digest.Digest) ([]Signature, error) {
	var found []Signature
	left := int64(pulp.MaxSignatureBody)
	for n := 1; n <= maxLookaside; n++ {
		at := *g.sigstore
		at.Path += "/" + g.name + "@" + string(d.Algorithm()) + "=" + d.Encoded() + "/signature-" + strconv.Itoa(n)
		answer, err := g.document(ctx, request{method: http.MethodGet, url: &at, anonymous: true}, left)
		if fault.Is(err, fault.NotFound) {
			return found, nil
		} else if err != nil {
			return nil, err
		}
		left -= int64(len(answer.body))
		found = append(found, Signature{"", answer.body})
	}
	return found, nil
}
