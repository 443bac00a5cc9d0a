package admin

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/verify"
	"github.com/countersign/countersign/signing/policy"
	"github.com/countersign/countersign/tasks"
)

// TestPrintAdopted verifies the line of each repository, in the order of names, and the error if one was not adopted.
func TestPrintAdopted(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		result tasks.AdoptResult
		want   []string
		err    string
	}{
		"nothing": {},
		"adopted and unchanged": {
			result: tasks.AdoptResult{Adopted: map[string]int64{"b": 3}, Unchanged: []string{"a"}, Differences: map[string]int{"b": 2}},
			want:   []string{"a  nothing new", "b  version 3; remaining differences: 2 (see drift)"},
		},
		"not adopted": {
			result: tasks.AdoptResult{Adopted: map[string]int64{"a": 1}, NotAdopted: map[string]string{"b": "No access."}},
			want:   []string{"a  version 1", "b  not adopted: No access."},
			err:    "1 of 2 repositories were not adopted",
		},
		"skipped": {
			result: tasks.AdoptResult{
				Adopted: map[string]int64{"a": 1},
				Skipped: map[string][]tasks.AdoptSkipped{"a": {{Kind: "tag", Name: "v1", Reason: "Not supported."}}},
			},
			want: []string{"a  version 1", "a  skipped tag v1: Not supported."},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			err := (&Admin{out: &out}).printAdopted(tt.result)
			if (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, lines(out.String())); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

// lines returns the lines of a text without spaces at their ends, or nil for an empty text.
func lines(text string) (all []string) {
	for line := range strings.Lines(text) {
		all = append(all, strings.TrimRight(line, " \n"))
	}
	return all
}

func TestShort(t *testing.T) {
	t.Parallel()
	for d, want := range map[digest.Digest]string{
		"": "-", digest.Digest("sha256:" + strings.Repeat("a", 64)): strings.Repeat("a", 12),
	} {
		if got := short(d); got != want {
			t.Errorf("short(%s) = %s, want %s", d, got, want)
		}
	}
}

// TestDescribe verifies that a platform, which clients choose, is quoted.
func TestDescribe(t *testing.T) {
	t.Parallel()
	architecture, system := "amd64", "linux\x1b[2J"
	for want, m := range map[string]verify.Manifest{
		"list": {Manifest: pulp.Manifest{MediaType: pulp.OCIIndex}},
		"helm": {Manifest: pulp.Manifest{MediaType: pulp.OCIManifest, Type: "helm"}},
		`image "linux\x1b[2J/amd64"`: {
			Manifest: pulp.Manifest{MediaType: pulp.OCIManifest, Type: "image", Architecture: &architecture, OS: &system},
		},
	} {
		if got := describe(m); got != want {
			t.Errorf("describe = %s, want %s", got, want)
		}
	}
}

// TestPrintReport verifies the lines about signatures and requirements.
func TestPrintReport(t *testing.T) {
	t.Parallel()
	fingerprint := strings.Repeat("F", 40)
	made := pulp.Signature{KeyID: "0123", Reference: "localhost/a:1", SignedAt: 1}
	other := made
	other.Fingerprint = &fingerprint
	report := verify.Report{Manifests: []verify.Manifest{
		{Manifest: pulp.Manifest{MediaType: pulp.OCIManifest, Type: "image", Digest: "sha256:1"}, Signatures: []verify.Signature{
			{Signature: made, Check: verify.Check{Key: "ABCD", Verified: true}},
			{Signature: other, Check: verify.Check{Reason: "unknown key"}},
		}},
	}}
	verdict := &verify.Verdict{Manifests: []policy.Verdict{{Scope: "localhost/a", Requirements: []policy.Outcome{
		{Type: policy.SignedBy, Accepted: true, Signature: 0},
		{Type: policy.Reject, Signature: -1, Reason: "rejected"},
		{Type: policy.SignedBy, Signature: -1, Rejected: []string{"first", "second"}},
	}}}}
	var out bytes.Buffer
	if err := printReport(&out, report, verdict, "conclusion"); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"sha256:1  image",
		"     KEY" + strings.Repeat(" ", 39) + "SERVICE  REFERENCE      SIGNED                VERIFIED",
		"  1  ABCD" + strings.Repeat(" ", 38) + "-        localhost/a:1  1970-01-01T00:00:01Z  yes",
		"  2  " + fingerprint + "  -        localhost/a:1  1970-01-01T00:00:01Z  no: unknown key",
		`  policy, scope "localhost/a": NOT accepted`,
		"  requirement 1, signedBy: accepted for signature 1",
		"  requirement 2, reject: NOT accepted: rejected",
		"  requirement 3, signedBy: NOT accepted",
		"    signature 1: first",
		"    signature 2: second",
		"",
		"conclusion",
	}
	if diff := cmp.Diff(want, lines(out.String())); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}
