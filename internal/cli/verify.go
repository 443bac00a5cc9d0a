package cli

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp/armor"

	"github.com/countersign/countersign/internal/admin"
	"github.com/countersign/countersign/internal/apiclient"
	"github.com/countersign/countersign/signing/policy"
)

type verifyCommand struct {
	Reference string `arg:"" name:"ref" help:"HOST/PATH:TAG or HOST/PATH@DIGEST."`
	Policy    string `help:"Evaluate the policy.json in this file as podman does." placeholder:"FILE"`
	apiOptions
}

// Help describes the choice between a server and the installation on this machine.
func (verifyCommand) Help() string {
	return `With --server, or without a database on this machine, the server verifies the image; the command sends it the policy with the keys. Otherwise the host of the reference must be that of public_url, and the database of this machine is used, whether a server runs or not.

Exit status: 0 accepted, 1 not accepted, 2 unknown, for any reason.`
}

// Run runs the command.
func (o verifyCommand) Run(ctx context.Context, c *console, a *admin.Admin) error {
	server := c.value(o.Server, serverVariable)
	if r, err := parseReference(o.Reference); server == "" && (err != nil || r.host == "" || !c.withoutDatabase()) {
		if o.Output == asJSON {
			return usageError{fmt.Errorf("--output json needs a server: give --server URL")}
		}
		return a.Verify(ctx, admin.Verification{Reference: o.Reference, Policy: o.Policy})
	}
	r, err := parseReference(o.Reference)
	if err != nil {
		return err
	}
	if r.tag == "" && r.digest == "" {
		return usageError{fmt.Errorf("%s names no image: give a tag or a digest", o.Reference)}
	}
	var rules map[string]any
	if o.Policy != "" {
		if rules, err = portablePolicy(o.Policy); err != nil {
			return err
		}
	}
	return c.connect(ctx, connection{options: o.apiOptions, reference: r}, func(ctx context.Context, s *session) error {
		return s.verify(ctx, r, o, rules)
	})
}

// withoutDatabase reports whether there is no database on this machine.
func (c *console) withoutDatabase() bool {
	i, err := c.load()
	if err != nil {
		return false
	}
	_, missing := i.app.MissingDatabase()
	return missing
}

// verified has the fields of the response of verify/.
type verified struct {
	Manifests []struct {
		Digest       string  `json:"digest"`
		MediaType    string  `json:"media_type"`
		Architecture *string `json:"architecture"`
		OS           *string `json:"os"`
		Signatures   []struct {
			KeyID    string  `json:"key_id"`
			Key      *string `json:"key_fingerprint"`
			Services []struct {
				Name string `json:"name"`
			} `json:"signing_services"`
			Reference string  `json:"docker_reference"`
			SignedAt  string  `json:"signed_at"`
			Verified  bool    `json:"verified"`
			Reason    *string `json:"reason"`
		} `json:"signatures"`
	} `json:"manifests"`
	Accepted *bool `json:"accepted"`
	Verdicts []struct {
		Reference string `json:"reference"`
		Manifests []struct {
			Digest       string `json:"digest"`
			Accepted     bool   `json:"accepted"`
			Scope        string `json:"scope"`
			Requirements []struct {
				Type     string  `json:"type"`
				Accepted bool    `json:"accepted"`
				Reason   *string `json:"reason"`
			} `json:"requirements"`
		} `json:"manifests"`
	} `json:"verdicts"`
}

// verify lets the server verify an image, and prints its report and the conclusion.
func (s *session) verify(ctx context.Context, r reference, o verifyCommand, rules map[string]any) error {
	path, err := s.pathOf(ctx, r)
	if err != nil {
		return err
	}
	repo, err := s.findReferenced(ctx, path)
	if err != nil {
		return err
	}
	tags, err := s.tagsOf(ctx, r, repo.V)
	if err != nil {
		return err
	}
	var v status
	if err := s.api.Get(ctx, statusPath, nil, &v); err != nil {
		return err
	}
	_, host, _ := strings.Cut(v.Content.Origin, "://")
	r.path = path
	full := host + "/" + r.name()
	body := map[string]any{"tag": tags[0]}
	if rules != nil {
		body["policy"], body["reference"] = rules, full
	}
	var found apiclient.Object[verified]
	if err := s.api.Post(ctx, repo.V.Href+"verify/", body, &found); err != nil {
		return fmt.Errorf("%s: %w", full, err)
	}
	accepted, conclusion := found.V.conclude(full, o.Policy)
	if s.json {
		err = writeJSON(s.out, found)
	} else {
		err = found.V.print(s.console, conclusion)
	}
	if err == nil && !accepted {
		err = admin.ErrNotAccepted
	}
	return err
}

// conclude returns the decision, and the line that states it.
func (v verified) conclude(full, policyFile string) (accepted bool, conclusion string) {
	switch {
	case policyFile != "" && v.Accepted != nil && *v.Accepted:
		return true, "accepted by " + policyFile
	case policyFile != "":
		return false, "NOT accepted by " + policyFile
	}
	images := v.Manifests
	if len(images) > 1 { // the first one is the list
		images = images[1:]
	}
	signed := len(images) > 0
	for _, m := range images {
		exact := false
		for _, g := range m.Signatures {
			exact = exact || g.Verified && g.Reference == full
		}
		signed = signed && exact
	}
	if signed {
		return true, "signed for exactly " + full
	}
	return false, "NOT signed, by a key that the server knows, for exactly " + full
}

// print writes the signatures of each manifest, the verdict about it, and the conclusion.
func (v verified) print(c *console, conclusion string) error {
	for i, m := range v.Manifests {
		kind := m.MediaType
		if m.OS != nil && m.Architecture != nil {
			kind = "image " + *m.OS + "/" + *m.Architecture
		}
		if _, err := fmt.Fprintf(c.out, "%s  %s\n", printable(m.Digest), printable(kind)); err != nil {
			return err
		}
		t := table{header: []string{"", "KEY", "SERVICE", "REFERENCE", "SIGNED", "VERIFIED"}}
		for j, g := range m.Signatures {
			key, names, state := g.KeyID, make([]string, len(g.Services)), cell{"yes", green}
			if g.Key != nil {
				key = *g.Key
			}
			for k, service := range g.Services {
				names[k] = service.Name
			}
			if !g.Verified {
				state = cell{"no: " + orDash(g.Reason), red}
			}
			service := strings.Join(names, ", ")
			t.rows = append(t.rows, []cell{
				{text: strconv.Itoa(j + 1)}, {text: key}, {text: orDash(&service)}, {text: g.Reference}, {text: g.SignedAt}, state,
			})
		}
		if len(m.Signatures) == 0 {
			t = table{rows: [][]cell{{{text: "  no signatures"}}}}
		}
		if err := t.write(c.out, c.coloured); err != nil {
			return err
		}
		v.printVerdicts(c, i)
	}
	_, err := fmt.Fprintln(c.out, "\n"+conclusion)
	return err
}

// printVerdicts writes the verdicts about manifest i.
func (v verified) printVerdicts(c *console, i int) {
	for _, verdict := range v.Verdicts {
		if i >= len(verdict.Manifests) {
			continue
		}
		m := verdict.Manifests[i]
		_, _ = fmt.Fprintf(c.out, "  policy, scope %q: %s\n", m.Scope, acceptance(m.Accepted))
		for j, q := range m.Requirements {
			_, _ = fmt.Fprintf(c.out, "  requirement %d, %s: %s", j+1, printable(q.Type), acceptance(q.Accepted))
			if q.Reason != nil {
				_, _ = fmt.Fprintf(c.out, ": %s", printable(*q.Reason))
			}
			_, _ = fmt.Fprintln(c.out)
		}
	}
}

func acceptance(accepted bool) string {
	if accepted {
		return "accepted"
	}
	return "NOT accepted"
}

// portablePolicy reads a policy and replaces the names of key files by the keys, which the server does not have.
func portablePolicy(file string) (map[string]any, error) {
	text, err := readFile(file)
	if err != nil {
		return nil, err
	}
	if _, err := policy.Parse(text); err != nil { // refuses what decoding below would hide, such as duplicate keys
		return nil, usageError{fmt.Errorf("%s: %w", file, err)}
	}
	var rules map[string]any
	if err := json.Unmarshal(text, &rules); err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", file, err)}
	}
	return rules, inlineKeys(rules)
}

// inlineKeys replaces keyPath and keyPaths by keyData in all requirements below v.
func inlineKeys(v any) error {
	switch v := v.(type) {
	case []any:
		for _, child := range v {
			if err := inlineKeys(child); err != nil {
				return err
			}
		}
	case map[string]any:
		if err := inlineRequirement(v); err != nil {
			return err
		}
		for _, child := range v {
			if err := inlineKeys(child); err != nil {
				return err
			}
		}
	}
	return nil
}

// inlineRequirement replaces the key files of a requirement of the type signedBy.
func inlineRequirement(requirement map[string]any) error {
	if requirement["type"] != "signedBy" {
		return nil
	}
	var files []string
	if path, ok := requirement["keyPath"].(string); ok {
		files = []string{path}
	}
	if paths, ok := requirement["keyPaths"].([]any); ok {
		for _, path := range paths {
			if text, ok := path.(string); ok {
				files = append(files, text)
			}
		}
	}
	if len(files) == 0 {
		return nil
	}
	var ring []byte
	for _, file := range files {
		text, err := readFile(file)
		if err != nil {
			return err
		}
		ring = append(ring, binaryKeys(text)...)
	}
	delete(requirement, "keyPath")
	delete(requirement, "keyPaths")
	requirement["keyData"] = base64.StdEncoding.EncodeToString(ring)
	return nil
}

// binaryKeys returns keys without their armor, so that several files can be joined.
func binaryKeys(text []byte) []byte {
	block, err := armor.Decode(strings.NewReader(string(text)))
	if err != nil {
		return text
	}
	raw, err := io.ReadAll(block.Body)
	if err != nil {
		return text
	}
	return raw
}
