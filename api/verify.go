package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/verify"
	"github.com/countersign/countersign/signing/policy"
)

// Bounds of what one call may have judged.
const (
	maxRequirements = 20  // of one scope of a policy
	maxJudged       = 20  // references
	maxKeys         = 100 // of a policy
)

// verified is the answer of verify/: who signed what a tag stands for and, given a policy, whether clients accept it.
type verified struct {
	Tag       string             `json:"tag"`
	Version   string             `json:"repository_version"`
	Digest    digest.Digest      `json:"digest"`
	Manifests []verifiedManifest `json:"manifests"` // the tag's and, of a list, each image in it
	Accepted  *bool              `json:"accepted"`  // null without a policy; else whether clients accept all references
	Verdicts  []verdict          `json:"verdicts"`  // one a reference; none without a policy
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
	Href      string  `json:"pulp_href"`
	KeyID     string  `json:"key_id"`
	Key       *string `json:"key_fingerprint"` // of the primary key that it verifies with, else of the key that it names
	Services  []named `json:"signing_services"`
	Reference string  `json:"docker_reference"`
	SignedAt  stamp   `json:"signed_at"`
	Verified  bool    `json:"verified"`
	Reason    *string `json:"reason"` // why it is not verified
}

type named struct {
	Href string `json:"pulp_href,omitempty"` // for administrators alone
	Name string `json:"name"`
}

// verdict is what a policy makes of one reference.
type verdict struct {
	Reference string            `json:"reference"`
	Accepted  bool              `json:"accepted"` // all images that clients pull by it
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
	Signature *string             `json:"signature"` // that satisfies it
	Rejected  []rejectedSignature `json:"rejected"`
}

type rejectedSignature struct {
	Signature string `json:"signature"`
	Reason    string `json:"reason"`
}

// asked is what a call of verify/ wants.
type asked struct {
	tag       string
	version   pulp.Version // zero for the latest
	policy    *policy.Policy
	reference string
}

// verify tells who signed a tag. It changes nothing and so makes no task. Pulp has no such call.
func (a *API) verify(r resource[pulp.Repository]) handler {
	return func(req *request) (answer, error) {
		repo, err := one(a, r, req)
		if err != nil {
			return answer{}, err
		}
		want, err := a.readVerify(req, repo)
		if err != nil {
			return answer{}, err
		}
		number := repo.LatestVersion
		if want.version.ID != "" {
			number = want.version.Number
		}
		ctx, cancel := verify.WithTimeout(req.Context())
		defer cancel()
		keys, err := verify.ServiceKeys(ctx, a.Store)
		if err != nil {
			return answer{}, err
		}
		if want.policy != nil {
			others, err := want.policy.PublicKeys(ctx)
			if err != nil {
				return answer{}, err
			}
			keys = keys.With(others)
		}
		now := time.Now()
		target := store.Target{Repository: repo, Distribution: pulp.Distribution{Pinned: &pulp.PinnedVersion{RepositoryID: repo.ID, Number: number}}}
		report, err := verify.Tag(ctx, a.Store, target, want.tag, keys, now)
		if fault.Is(err, fault.NotFound) {
			err = fault.Field("tag", "The repository version has no such tag.")
		}
		if err != nil {
			return answer{}, err
		}
		shown := verified{
			Tag: want.tag, Version: pulp.VersionHref(repo.Type, repo.ID, number), Digest: report.Manifests[0].Digest,
			Manifests: showVerified(report, req.isStaff()), Verdicts: []verdict{},
		}
		if want.policy != nil {
			if err := a.judge(ctx, req, repo, number, want, report, now, &shown); err != nil {
				return answer{}, err
			}
		}
		return ok(shown), nil
	}
}

// readVerify reads the call's body. A policy is read as it was sent: what is in it twice must not be lost on the way.
func (a *API) readVerify(req *request, repo pulp.Repository) (asked, error) {
	raw, err := io.ReadAll(req.Body)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return asked{}, fault.New(fault.TooLarge, "The request's body has more than %d bytes.", maxBody)
	}
	if err != nil {
		return asked{}, fault.Wrap(fault.Invalid, err, "The request's body ended early.")
	}
	req.Body = io.NopCloser(bytes.NewReader(raw))
	b, err := req.body()
	if err != nil {
		return asked{}, err
	}
	var want asked
	if tag := b.text("tag", true, false).Value; tag != nil {
		if want.tag = *tag; len(b.errs["tag"]) == 0 && !pulp.ValidTag(want.tag) {
			b.fail("tag", badTag)
		}
	}
	if reference := b.text("reference", false, false).Value; reference != nil {
		want.reference = *reference
	}
	if want.version, _, err = a.readVersion(req, b, "repository_version"); err != nil {
		return asked{}, err
	}
	if want.version.ID != "" && want.version.RepositoryID != repo.ID {
		b.fail("repository_version", "The repository has no such version.")
	}
	want.policy = readPolicy(b, raw)
	if want.reference != "" && want.policy == nil && len(b.errs) == 0 {
		b.fail("reference", "This field goes with a policy.")
	}
	return want, b.finish()
}

// readPolicy reads the policy, an object or its text; nil when there is none. It may name no files: they would be the server's.
func readPolicy(b *body, raw []byte) *policy.Policy {
	const field = "policy"
	v, set := b.value(field, false)
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
			b.fail(field, "Not a policy.")
			return nil
		}
		text = members[field]
	default:
		b.fail(field, "Not a policy: the value is not an object.")
		return nil
	}
	p, err := policy.Parse(text)
	if f, ok := errors.AsType[*fault.Error](err); ok {
		b.fail(field, "%s", f.Msg)
		return nil
	}
	switch {
	case len(p.Files()) > 0:
		b.fail(field, "The policy names files, which are the client's: give keys as keyData.")
	case p.Longest() > maxRequirements:
		b.fail(field, "The policy has a list of more than %d requirements.", maxRequirements)
	case p.KeyCount() > maxKeys:
		b.fail(field, "The policy has more than %d keys.", maxKeys)
	}
	return p
}

// judge adds what the policy makes of the tag's references.
func (a *API) judge(ctx context.Context, req *request, repo pulp.Repository, number int64, want asked, report verify.Report, now time.Time, into *verified) error {
	references := []string{want.reference}
	if want.reference == "" {
		var err error
		if references, err = a.references(req, repo, number, want.tag); err != nil {
			return err
		}
	}
	if len(references) == 0 {
		return fault.Field("reference", "This field is required since no distribution serves the repository version.")
	}
	accepted := true
	for _, reference := range references {
		v, err := report.Evaluate(ctx, want.policy, reference, now)
		if f, ok := errors.AsType[*fault.Error](err); ok && f.Kind == fault.Invalid {
			err = fault.Field("reference", "%s", f.Msg)
		}
		if err != nil {
			return err
		}
		accepted = accepted && v.Accepted
		into.Verdicts = append(into.Verdicts, showVerdict(v, into.Manifests))
	}
	into.Accepted = &accepted
	return nil
}

// references are those by which clients pull a tag of a repository version, as far as the caller sees its distributions.
func (a *API) references(req *request, repo pulp.Repository, number int64, tag string) ([]string, error) {
	where, err := visible(req)
	if err != nil {
		return nil, err
	}
	version, err := a.Store.Version(req.Context(), repo.ID, number)
	if err != nil {
		return nil, err
	}
	serves := store.Where("repository_version", store.Equal, version.ID)
	if number == repo.LatestVersion {
		serves = store.Any(serves, store.Where("repository", store.Equal, repo.ID))
	}
	found, count, err := a.Store.Distributions(req.Context(), store.ListQuery{
		Where: append(where, serves), Order: []store.Order{{Field: "base_path"}}, Limit: maxJudged,
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

// showVerified shows a report. It names signing services by href to administrators alone, who may read them.
func showVerified(r verify.Report, staff bool) []verifiedManifest {
	shown := make([]verifiedManifest, len(r.Manifests))
	for i, m := range r.Manifests {
		shown[i] = verifiedManifest{
			Href: pulp.Href(pulp.ManifestCollection, m.ID), Digest: m.Digest, MediaType: m.MediaType, Architecture: m.Architecture, OS: m.OS,
			Signatures: make([]verifiedSignature, len(m.Signatures)),
		}
		for j, g := range m.Signatures {
			v := verifiedSignature{
				Href: pulp.Href(pulp.SignatureCollection, g.ID), KeyID: g.KeyID, Key: g.Fingerprint, Services: make([]named, len(g.Services)),
				Reference: g.Reference, SignedAt: stamp(time.Unix(g.SignedAt, 0)), Verified: g.Verified,
			}
			if g.Verified {
				v.Key = &g.Key
			} else {
				v.Reason = &g.Reason
			}
			for k, s := range g.Services {
				v.Services[k] = named{Name: s.Name}
				if staff {
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
			r := requirement{Type: o.Type, Accepted: o.Accepted, Evaluated: o.Evaluated, Rejected: make([]rejectedSignature, len(o.Rejected))}
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

func serviceHrefs(all []pulp.SigningService) []string {
	ids := make([]string, len(all))
	for i, s := range all {
		ids[i] = s.ID
	}
	return hrefs(pulp.SigningServiceCollection, ids)
}
