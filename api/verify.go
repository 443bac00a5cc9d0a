package api

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/api/internal/body"
	"github.com/countersign/countersign/api/internal/reply"
	"github.com/countersign/countersign/api/internal/timestamp"
	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store/list"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/verify"
	"github.com/countersign/countersign/signing/policy"
)

// Bounds of one request.
const (
	maxRequirements = 20  // of one scope of a policy
	maxJudged       = 20  // references
	maxKeys         = 100 // of a policy
)

// verified is the response of verify/: the signers of a tag's manifests and, given a policy, whether clients accept
// the tag.
type verified struct {
	Tag       string             `json:"tag"`
	Version   string             `json:"repository_version"`
	Digest    digest.Digest      `json:"digest"`
	Manifests []verifiedManifest `json:"manifests"` // the tag's and, of a list, each of its images
	Accepted  *bool              `json:"accepted"`  // whether clients accept all references; null without a policy
	Verdicts  []verdict          `json:"verdicts"`  // one for each reference; none without a policy
}

type verifiedManifest struct {
	Href         string              `json:"pulp_href"`
	Digest       digest.Digest       `json:"digest"`
	MediaType    string              `json:"media_type"`
	Architecture *string             `json:"architecture"`
	OS           *string             `json:"os"`
	Signatures   []verifiedSignature `json:"signatures"`
}

type verifiedSignature struct {
	Href      string         `json:"pulp_href"`
	KeyID     string         `json:"key_id"`
	Key       *string        `json:"key_fingerprint"` // of the primary key, if verified; else of the key that the signature names
	Services  []named        `json:"signing_services"`
	Reference string         `json:"docker_reference"`
	SignedAt  timestamp.Time `json:"signed_at"`
	Verified  bool           `json:"verified"`
	Reason    *string        `json:"reason"` // if not verified
}

type named struct {
	Href string `json:"pulp_href,omitempty"` // for callers that may view it
	Name string `json:"name"`
}

// verdict is the decision of a policy about one reference.
type verdict struct {
	Reference string            `json:"reference"`
	Accepted  bool              `json:"accepted"` // whether all images that clients pull by it are
	Manifests []manifestVerdict `json:"manifests"`
}

type manifestVerdict struct {
	Digest       digest.Digest `json:"digest"`
	Accepted     bool          `json:"accepted"`
	Scope        string        `json:"scope"`
	Requirements []requirement `json:"requirements"`
}

type requirement struct {
	Type      string              `json:"type"`
	Accepted  bool                `json:"accepted"`
	Evaluated bool                `json:"evaluated"`
	Reason    *string             `json:"reason"`
	Signature *string             `json:"signature"` // that satisfies the requirement
	Rejected  []rejectedSignature `json:"rejected"`
}

type rejectedSignature struct {
	Signature string `json:"signature"`
	Reason    string `json:"reason"`
}

// verifyArgs are the fields of a request to verify/.
type verifyArgs struct {
	tag       string
	number    int64          // of the version
	policy    *policy.Policy // nil: none
	reference string         // empty: all references of the tag
}

// verifyFields are the fields of the body of a request to verify/.
var verifyFields = body.Form{
	"tag": body.Text.Required(), "reference": body.Text, "repository_version": body.Reference, "policy": body.Value,
}

// verify returns the handler that reports the signers of a tag. It changes nothing, so there is no task. It is an
// operation of our own.
func (a *API) verify(r resource[pulp.Repository]) handler {
	return func(req *request) (reply.Reply, error) {
		rep, err := a.verifyImage(r, req)
		if a.Verified != nil {
			a.Verified(verification(rep, err))
		}
		return rep, err
	}
}

// verifyImage reports the signers of a tag.
func (a *API) verifyImage(r resource[pulp.Repository], req *request) (reply.Reply, error) {
	repo, err := permitted(a, r, req, access.View)
	if err != nil {
		return reply.Reply{}, err
	}
	args, err := a.readVerify(req, repo)
	if err != nil {
		return reply.Reply{}, err
	}
	ctx, cancel := verify.WithTimeout(req.Context())
	defer cancel()
	now := time.Now()
	report, err := a.verifyTag(ctx, repo, args, now)
	if err != nil {
		return reply.Reply{}, err
	}
	shows, err := a.showsServices(req)
	if err != nil {
		return reply.Reply{}, err
	}
	shown := verified{
		Tag: args.tag, Version: pulp.VersionHref(repo.Type, repo.ID, args.number), Digest: report.Manifests[0].Digest,
		Manifests: showVerified(report, shows), Verdicts: []verdict{},
	}
	if args.policy == nil {
		return reply.OK(&shown), nil
	}
	references := []string{args.reference}
	if args.reference == "" {
		if references, err = a.references(req, repo, args.number, args.tag); err != nil {
			return reply.Reply{}, err
		}
	}
	return reply.OK(&shown), shown.evaluate(ctx, args.policy, references, report, now)
}

// verifyTag verifies the signatures of a tag with the keys of all signing services and of the policy.
func (a *API) verifyTag(ctx context.Context, repo pulp.Repository, args verifyArgs, now time.Time) (verify.Report, error) {
	keys, err := verify.ServiceKeys(ctx, a.Store)
	if err != nil {
		return verify.Report{}, err
	}
	if args.policy != nil {
		others, err := args.policy.PublicKeys(ctx)
		if err != nil {
			return verify.Report{}, err
		}
		keys = keys.With(others)
	}
	pinned := &pulp.PinnedVersion{RepositoryID: repo.ID, Number: args.number}
	target := record.Target{Repository: repo, Distribution: pulp.Distribution{Pinned: pinned}}
	report, err := verify.Tag(ctx, a.Store, target, args.tag, keys, now)
	if fault.Is(err, fault.NotFound) {
		err = fault.Field("tag", "The repository version has no such tag.")
	}
	return report, err
}

// readVerify reads the body of a request to verify/. The policy is parsed from the text of the body, because its parser
// refuses keys that occur twice.
func (a *API) readVerify(req *request, repo pulp.Repository) (verifyArgs, error) {
	b, raw, err := body.ReadRaw(req.Request)
	if err != nil {
		return verifyArgs{}, err
	}
	args := verifyArgs{number: repo.LatestVersion}
	if tag := b.Text("tag", body.Required).Value; tag != nil {
		if args.tag = *tag; b.Valid("tag") && !pulp.ValidTag(args.tag) {
			b.Fail("tag", badTag)
		}
	}
	if reference := b.Text("reference").Value; reference != nil {
		args.reference = *reference
	}
	version, _, err := a.readVersion(req, b, "repository_version")
	if err != nil {
		return verifyArgs{}, err
	}
	if version.ID != "" {
		args.number = version.Number
		if version.RepositoryID != repo.ID {
			b.Fail("repository_version", "The repository has no such version.")
		}
	}
	args.policy = readPolicy(b, raw)
	if args.reference != "" && args.policy == nil && b.Valid() {
		b.Fail("reference", "This field requires the field policy.")
	}
	return args, b.Finish()
}

// readPolicy reads the field policy: an object, or its JSON in a text. It returns nil when the field is null or
// absent. A policy must not name files, which would be the server's.
func readPolicy(b *body.Fields, raw []byte) *policy.Policy {
	const field = "policy"
	v, set := b.Value(field)
	if !set || v == nil {
		return nil
	}
	var text []byte
	switch v := v.(type) {
	case string:
		text = []byte(v)
	case map[string]any:
		var members map[string]json.RawMessage
		if err := json.Unmarshal(raw, &members); err != nil {
			b.Fail(field, "Not a policy.")
			return nil
		}
		text = members[field]
	default:
		b.Fail(field, "Not a policy: the value is not an object.")
		return nil
	}
	p, err := policy.Parse(text)
	if f, ok := errors.AsType[*fault.Error](err); ok {
		b.Fail(field, "%s", f.Msg)
		return nil
	}
	switch {
	case len(p.Files()) > 0:
		b.Fail(field, "The policy names key files, which exist only on clients. Give keys as keyData.")
	case p.Longest() > maxRequirements:
		b.Fail(field, "The policy has a list of more than %d requirements.", maxRequirements)
	case p.KeyCount() > maxKeys:
		b.Fail(field, "The policy has more than %d keys.", maxKeys)
	}
	return p
}

// evaluate adds the verdicts of a policy about references.
func (v *verified) evaluate(
	ctx context.Context, p *policy.Policy, references []string, report verify.Report, now time.Time,
) error {
	if len(references) == 0 {
		return fault.Field("reference", "This field is required since no distribution serves the repository version.")
	}
	accepted := true
	for _, reference := range references {
		result, err := report.Evaluate(ctx, p, reference, now)
		if f, ok := errors.AsType[*fault.Error](err); ok && f.Kind == fault.Invalid {
			err = fault.Field("reference", "%s", f.Msg)
		}
		if err != nil {
			return err
		}
		accepted = accepted && result.Accepted
		v.Verdicts = append(v.Verdicts, showVerdict(result, v.Manifests))
	}
	v.Accepted = &accepted
	return nil
}

// references returns the references by which clients pull a tag of a repository version: one for each distribution
// that the caller may see.
func (a *API) references(req *request, repo pulp.Repository, number int64, tag string) ([]string, error) {
	where, err := a.visible(req)
	if err != nil {
		return nil, err
	}
	version, err := a.Store.Content.Version(req.Context(), repo.ID, number)
	if err != nil {
		return nil, err
	}
	serves := list.Where("repository_version", list.Equal, version.ID)
	if number == repo.LatestVersion {
		serves = list.Any(serves, list.Where("repository", list.Equal, repo.ID))
	}
	found, count, err := a.Store.Lists.Distributions(req.Context(), list.Query{
		Where: append(where, serves), Order: []list.Order{{Field: "base_path"}}, Limit: maxJudged,
	})
	if err == nil && count > maxJudged {
		err = fault.Field("reference", "This field is required since there are more than %d distributions.", maxJudged)
	}
	references := make([]string, len(found))
	for i, d := range found {
		references[i] = a.PublicURL.Host + "/" + d.BasePath + ":" + tag
	}
	return references, err
}

// showVerified returns the JSON form of a report, with the hrefs of the signing services that the caller may view.
func showVerified(r verify.Report, shows func(id string) bool) []verifiedManifest {
	shown := make([]verifiedManifest, len(r.Manifests))
	for i, m := range r.Manifests {
		shown[i] = verifiedManifest{
			Href: pulp.Href(pulp.ManifestCollection, m.ID), Digest: m.Digest, MediaType: m.MediaType,
			Architecture: m.Architecture, OS: m.OS,
			Signatures: make([]verifiedSignature, len(m.Signatures)),
		}
		for j, g := range m.Signatures {
			v := verifiedSignature{
				Href: pulp.Href(pulp.SignatureCollection, g.ID), KeyID: g.KeyID, Key: g.Fingerprint,
				Services:  make([]named, len(g.Services)),
				Reference: g.Reference, SignedAt: timestamp.Time(time.Unix(g.SignedAt, 0)), Verified: g.Verified,
			}
			if g.Verified {
				v.Key = &g.Key
			} else {
				v.Reason = &g.Reason
			}
			for k, s := range g.Services {
				v.Services[k] = named{Name: s.Name}
				if shows(s.ID) {
					v.Services[k].Href = pulp.Href(pulp.SigningServiceCollection, s.ID)
				}
			}
			shown[i].Signatures[j] = v
		}
	}
	return shown
}

func showVerdict(v verify.Verdict, manifests []verifiedManifest) verdict {
	shown := verdict{Reference: v.Reference, Accepted: v.Accepted}
	for i, m := range v.Manifests {
		of := manifestVerdict{Digest: manifests[i].Digest, Accepted: m.Accepted, Scope: m.Scope}
		for _, o := range m.Requirements {
			r := requirement{
				Type: o.Type, Accepted: o.Accepted, Evaluated: o.Evaluated, Rejected: make([]rejectedSignature, len(o.Rejected)),
			}
			if !o.Accepted {
				r.Reason = &o.Reason
			}
			if o.Signature >= 0 {
				r.Signature = &manifests[i].Signatures[o.Signature].Href
			}
			for j, reason := range o.Rejected {
				r.Rejected[j] = rejectedSignature{manifests[i].Signatures[j].Href, reason}
			}
			of.Requirements = append(of.Requirements, r)
		}
		shown.Manifests = append(shown.Manifests, of)
	}
	return shown
}
