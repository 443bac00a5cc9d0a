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

// Source is the place of a remote's signatures (compatibility.md#sync).
type Source int

// The places of signatures.
const (
	NoSignatures Source = iota
	Extension           // the extension endpoint of the registry
	Lookaside           // files at the remote's sigstore URL
)

// Signature is a signature of a remote. It is not validated.
type Signature struct {
	Name    string // from the extension endpoint; empty for files
	Content []byte
}

// maxLookaside bounds the files with signatures of one manifest.
const maxLookaside = 100

// SignatureSource returns the place of the remote's signatures: its files if it has a sigstore URL, or its extension
// endpoint if the registry announces one.
func (g *Registry) SignatureSource(ctx context.Context) (Source, error) {
	if g.sigstore != nil {
		return Lookaside, nil
	}
	res, err := g.do(ctx, request{method: http.MethodGet, url: g.at("/v2/"), anonymous: true})
	if err != nil {
		return NoSignatures, err
	}
	if registryclient.TemporaryStatus(res.StatusCode) || res.StatusCode >= http.StatusInternalServerError {
		return NoSignatures, refused(res) // an outage does not mean that there are no signatures
	}
	drain(res)
	if res.Header.Get("X-Registry-Supports-Signatures") == "1" {
		return Extension, nil
	}
	return NoSignatures, nil
}

// Signatures returns the signatures of a manifest from a place. They are nil if the place does not know the manifest,
// and empty if it says that the manifest has none; files cannot say that.
func (g *Registry) Signatures(ctx context.Context, from Source, d digest.Digest) ([]Signature, error) {
	if !supported(d) {
		return nil, malformed(string(d))
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

// extension reads the signatures of a manifest from the extension endpoint. It leaves out those of an unknown form.
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
	if err := json.Unmarshal(answer.Body, &list); err != nil {
		return nil, fault.Wrap(fault.Unavailable, err, "The remote's list of signatures is not JSON, url='%s'",
			registryclient.PlainURL(at))
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

// lookaside reads the files signature-1, signature-2 and so on until one does not exist.
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
		left -= int64(len(answer.Body))
		found = append(found, Signature{"", answer.Body})
	}
	return found, nil
}
