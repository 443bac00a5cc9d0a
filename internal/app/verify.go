package app

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/verify"
	"github.com/countersign/countersign/signing/policy"
)

type VerifyCommand struct {
	Reference string `arg:"" name:"ref" help:"HOST/PATH:TAG of this installation, or HOST/PATH@DIGEST."`
	Policy    string `help:"Say what podman would do with the policy.json in this file." placeholder:"FILE"`
}

// ErrNotAccepted ends a verify whose answer is no. The answer has been printed: there is nothing to add.
var ErrNotAccepted = errors.New("not accepted")

// ExitStatus says how the program ends: for verify 1 is the answer no, and 2 that there is no answer.
func ExitStatus(args []string, err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrNotAccepted) || !slices.Contains(args, "verify"):
		return 1
	}
	return 2
}

// Run prints who signed an image, and what a policy makes of it.
func (c VerifyCommand) Run(p *Program) error {
	accepted := false
	err := p.withExisting(func(s *store.Store) (err error) {
		accepted, err = c.verify(p, s, time.Now())
		return err
	})
	if err == nil && !accepted {
		err = ErrNotAccepted
	}
	return err
}

func (c VerifyCommand) verify(p *Program, s *store.Store, now time.Time) (bool, error) {
	path, name, err := c.take(p.config.Public().Host)
	if err != nil {
		return false, err
	}
	var rules *policy.Policy
	keys, err := verify.ServiceKeys(p.ctx, s)
	if err != nil {
		return false, err
	}
	if c.Policy != "" {
		if rules, err = readPolicy(c.Policy); err != nil {
			return false, err
		}
		others, err := rules.PublicKeys(p.ctx)
		if err != nil {
			return false, err
		}
		keys = keys.With(others)
	}
	target, err := s.Resolve(p.ctx, path)
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	if !target.Served() {
		return false, fmt.Errorf("%s serves nothing", path)
	}
	report, err := verify.Tag(p.ctx, s, target, name, keys, now)
	if err != nil {
		return false, fmt.Errorf("%s: %w", c.Reference, err)
	}
	var verdict *verify.Verdict
	if rules != nil {
		v, err := report.Evaluate(p.ctx, rules, c.Reference, now)
		if err != nil {
			return false, err
		}
		verdict = &v
	}
	accepted, last := c.conclude(report, verdict)
	return accepted, c.print(p.out, report, verdict, last)
}

// take splits the reference into a base path and a tag or digest. Its host must be this installation's.
func (c VerifyCommand) take(host string) (path, name string, err error) {
	rest, ours := strings.CutPrefix(c.Reference, host+"/")
	if !ours {
		return "", "", fmt.Errorf("%q is no reference of this installation: they begin with %s/, the host of public_url; call verify with the server's settings (COUNTERSIGN_PUBLIC_URL, COUNTERSIGN_LISTEN, --config)", c.Reference, host)
	}
	if path, name, ours = strings.Cut(rest, "@"); ours {
		if digest.Digest(name).Validate() != nil || !pulp.ValidName(path) {
			return "", "", fmt.Errorf("%q is no reference: want %s/PATH@DIGEST", c.Reference, host)
		}
		return path, name, nil
	}
	path, name, ours = strings.Cut(rest, ":")
	if !ours || !pulp.ValidName(path) || !pulp.ValidTag(name) {
		return "", "", fmt.Errorf("%q is no reference: want %s/PATH:TAG", c.Reference, host)
	}
	return path, name, nil
}

// readPolicy reads a policy and the files with keys that it names.
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

// conclude returns the answer and the line that says it.
func (c VerifyCommand) conclude(r verify.Report, v *verify.Verdict) (accepted bool, line string) {
	switch {
	case v != nil && v.Accepted:
		return true, "accepted by " + c.Policy
	case v != nil:
		return false, "NOT accepted by " + c.Policy
	case r.Signed(c.Reference):
		return true, "signed for exactly " + c.Reference
	}
	return false, "NOT signed, by a key that the server knows, for exactly " + c.Reference
}

func (c VerifyCommand) print(to io.Writer, r verify.Report, v *verify.Verdict, last string) error {
	w := tabwriter.NewWriter(to, 0, 4, 2, ' ', 0)
	for i, m := range r.Manifests {
		fmt.Fprintf(w, "%s  %s\n", m.Digest, describe(m))
		printSignatures(w, m)
		if err := w.Flush(); err != nil { // columns are as wide as one manifest needs
			return err
		}
		if v != nil {
			printVerdict(w, v.Manifests[i])
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, last)
	return w.Flush()
}

// describe says what kind of manifest one is.
func describe(m verify.Manifest) string {
	if pulp.IsList(m.MediaType) {
		return "list"
	}
	if m.Architecture == nil || m.OS == nil {
		return m.Type
	}
	return fmt.Sprintf("%s %q", m.Type, *m.OS+"/"+*m.Architecture) // quoted: it is what a pusher wrote
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
		fmt.Fprintf(w, "  %d\t%s\t%s\t%s\t%s\t%s\n", i+1, key, services, g.Reference, time.Unix(g.SignedAt, 0).UTC().Format(time.RFC3339), verified)
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
		if len(o.Rejected) == 1 && !o.Accepted { // has been said
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
