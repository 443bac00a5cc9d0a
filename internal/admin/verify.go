package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/verify"
	"github.com/countersign/countersign/signing/policy"
)

// ErrNotAccepted is the result of Verify for an image that is not accepted. Verify has printed the reason.
var ErrNotAccepted = errors.New("not accepted")

// Verification describes an image to verify.
type Verification struct {
	Reference string // HOST/PATH:TAG or HOST/PATH@DIGEST, with the host of this installation
	Policy    string // path of a policy.json; empty: the image must be signed by a key that the server knows
}

// Verify prints the signatures of an image and the decision of a policy. It returns ErrNotAccepted if the image is
// not accepted, and other errors if that is unknown.
func (a *Admin) Verify(ctx context.Context, v Verification) error {
	return a.app.WithExistingStore(ctx, func(s *store.Store) error {
		accepted, err := a.verify(ctx, s, v, time.Now())
		if err == nil && !accepted {
			err = ErrNotAccepted
		}
		return err
	})
}

func (a *Admin) verify(ctx context.Context, s *store.Store, v Verification, now time.Time) (accepted bool, err error) {
	path, name, err := v.split(a.config.Public().Host)
	if err != nil {
		return false, err
	}
	keys, err := verify.ServiceKeys(ctx, s)
	if err != nil {
		return false, err
	}
	var rules *policy.Policy
	if v.Policy != "" {
		if rules, err = readPolicy(v.Policy); err != nil {
			return false, err
		}
		others, err := rules.PublicKeys(ctx)
		if err != nil {
			return false, err
		}
		keys = keys.With(others)
	}
	target, err := s.Serving.Resolve(ctx, path)
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	if !target.Served() {
		return false, fmt.Errorf("%s serves no repository: assign one to its distribution", path)
	}
	report, err := verify.Tag(ctx, s, target, name, keys, now)
	if err != nil {
		return false, fmt.Errorf("%s: %w", v.Reference, err)
	}
	var verdict *verify.Verdict
	if rules != nil {
		result, err := report.Evaluate(ctx, rules, v.Reference, now)
		if err != nil {
			return false, err
		}
		verdict = &result
	}
	accepted, conclusion := v.conclude(report, verdict)
	return accepted, printReport(a.out, report, verdict, conclusion)
}

// split splits the reference into a base path and a tag or digest. The reference must begin with host.
func (v Verification) split(host string) (path, name string, err error) {
	rest, ours := strings.CutPrefix(v.Reference, host+"/")
	if !ours {
		return "", "", fmt.Errorf("%q is not a reference of this installation: references here begin with %s/, the host of public_url; "+
			"call verify with the settings of the server (COUNTERSIGN_PUBLIC_URL, COUNTERSIGN_LISTEN, --config)", v.Reference, host)
	}
	if path, name, ours = strings.Cut(rest, "@"); ours {
		if digest.Digest(name).Validate() != nil || !pulp.ValidName(path) {
			return "", "", fmt.Errorf("%q is not a reference: want %s/PATH@DIGEST", v.Reference, host)
		}
		return path, name, nil
	}
	path, name, ours = strings.Cut(rest, ":")
	if !ours || !pulp.ValidName(path) || !pulp.ValidTag(name) {
		return "", "", fmt.Errorf("%q is not a reference: want %s/PATH:TAG", v.Reference, host)
	}
	return path, name, nil
}

// readPolicy reads a policy and the key files that it names.
func readPolicy(file string) (*policy.Policy, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	p, err := policy.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	p.ReadKeys(os.ReadFile)
	return p, nil
}

// conclude returns the decision and the line that states it.
func (v Verification) conclude(r verify.Report, verdict *verify.Verdict) (accepted bool, conclusion string) {
	switch {
	case verdict != nil && verdict.Accepted:
		return true, "accepted by " + v.Policy
	case verdict != nil:
		return false, "NOT accepted by " + v.Policy
	case r.Signed(v.Reference):
		return true, "signed for exactly " + v.Reference
	}
	return false, "NOT signed, by a key that the server knows, for exactly " + v.Reference
}

// printReport prints each manifest with its signatures and its part of the verdict, which may be nil, and the
// conclusion.
func printReport(out io.Writer, r verify.Report, v *verify.Verdict, conclusion string) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for i, m := range r.Manifests {
		fmt.Fprintf(w, "%s  %s\n", m.Digest, describe(m))
		printSignatures(w, m)
		if err := w.Flush(); err != nil { // the columns of each manifest have their own widths
			return err
		}
		if v != nil {
			printVerdict(w, v.Manifests[i])
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, conclusion)
	return w.Flush()
}

// describe returns the kind of a manifest, with the platform of an image.
func describe(m verify.Manifest) string {
	if pulp.IsList(m.MediaType) {
		return "list"
	}
	if m.Architecture == nil || m.OS == nil {
		return m.Type
	}
	return fmt.Sprintf("%s %q", m.Type, *m.OS+"/"+*m.Architecture) // quoted, because clients choose it
}

func printSignatures(w io.Writer, m verify.Manifest) {
	if len(m.Signatures) == 0 {
		fmt.Fprintln(w, "  no signatures")
		return
	}
	fmt.Fprintln(w, "  \tKEY\tSERVICE\tREFERENCE\tSIGNED\tVERIFIED")
	for i, g := range m.Signatures {
		key, services, verified := g.KeyID, "-", "yes"
		switch {
		case g.Verified:
			key = g.Key
		case g.Fingerprint != nil:
			key = *g.Fingerprint
		}
		if !g.Verified {
			verified = "no: " + g.Reason
		}
		if len(g.Services) > 0 {
			names := make([]string, len(g.Services))
			for j, s := range g.Services {
				names[j] = s.Name
			}
			services = strings.Join(names, ", ")
		}
		signedAt := time.Unix(g.SignedAt, 0).UTC().Format(time.RFC3339)
		fmt.Fprintf(w, "  %d\t%s\t%s\t%s\t%s\t%s\n", i+1, key, services, g.Reference, signedAt, verified)
	}
}

func printVerdict(w io.Writer, v policy.Verdict) {
	fmt.Fprintf(w, "  policy, scope %q: %s\n", v.Scope, yesNo(v.Accepted))
	for i, o := range v.Requirements {
		fmt.Fprintf(w, "  requirement %d, %s: %s", i+1, o.Type, yesNo(o.Accepted))
		switch {
		case o.Signature >= 0:
			fmt.Fprintf(w, " for signature %d", o.Signature+1)
		case o.Reason != "":
			fmt.Fprintf(w, ": %s", o.Reason)
		}
		fmt.Fprintln(w)
		if len(o.Rejected) == 1 && !o.Accepted { // it is the reason of the requirement
			continue
		}
		for j, reason := range o.Rejected {
			fmt.Fprintf(w, "    signature %d: %s\n", j+1, reason)
		}
	}
}

func yesNo(accepted bool) string {
	if accepted {
		return "accepted"
	}
	return "NOT accepted"
}
