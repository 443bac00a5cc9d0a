package policy_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/policy"
)

// signer is a key for tests.
type signer struct {
	entity *openpgp.Entity
	public []byte
}

func newSigner(t *testing.T) signer {
	t.Helper()
	entity, err := openpgp.NewEntity("test", "", "test@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var public bytes.Buffer
	if err := entity.Serialize(&public); err != nil {
		t.Fatal(err)
	}
	return signer{entity, public.Bytes()}
}

func (s signer) fingerprint() string { return fmt.Sprintf("%X", s.entity.PrimaryKey.Fingerprint) }

func (s signer) sign(t *testing.T, manifest []byte, reference string) []byte {
	t.Helper()
	claim, err := signing.EncodeClaim(signing.Claim{ManifestDigest: digest.FromBytes(manifest), DockerReference: reference})
	if err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	in, err := openpgp.Sign(&raw, s.entity, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(claim); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	return raw.Bytes()
}

func parse(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestOutcomes proves that a verdict has the result of each requirement: the reason of a failure, or the signature that
// satisfies it.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	ours, other := newSigner(t), newSigner(t)
	manifest := []byte(`{"schemaVersion":2}`)
	image := policy.Image{Reference: "example.com:5000/team/app:1", Manifest: manifest, Signatures: [][]byte{
		other.sign(t, manifest, "example.com:5000/team/app:1"), ours.sign(t, manifest, "example.com:5000/team/app:1"), ours.sign(t, manifest, "other.example.com/app:1"),
	}}
	key := base64.StdEncoding.EncodeToString(ours.public)
	p := parse(t, `{"default":[{"type":"reject"}],"transports":{"docker":{"example.com:5000/team":[
		{"type":"signedBy","keyType":"GPGKeys","keyData":"`+key+`"},
		{"type":"signedBy","keyType":"GPGKeys","keyPath":"/absent"},
		{"type":"sigstoreSigned","keyPath":"/x"},
		{"type":"insecureAcceptAnything"},
		{"type":"signedBy","keyType":"GPGKeys","keyData":"`+key+`","signedIdentity":{"type":"exactReference","dockerReference":"example.org/a:1"}}]}}}`)
	p.ReadKeys(func(string) ([]byte, error) { return nil, errors.New("no such file") })
	got, err := p.Evaluate(t.Context(), image, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	const unknown, signedFor = "The signature is by another key.", "the signature is for "
	want := policy.Verdict{
		Reference: "example.com:5000/team/app:1", Scope: "example.com:5000/team",
		Requirements: []policy.Outcome{
			{Type: "signedBy", Accepted: true, Evaluated: true, Signature: 1, Key: ours.fingerprint(), Rejected: []string{unknown}},
			{Type: "signedBy", Evaluated: true, Reason: "no such file", Signature: -1},
			{Type: "sigstoreSigned", Reason: "not evaluated: this program does not support sigstoreSigned", Signature: -1},
			{Type: "insecureAcceptAnything", Accepted: true, Evaluated: true, Signature: -1},
			{Type: "signedBy", Evaluated: true, Reason: "none of the signatures satisfies it", Signature: -1, Rejected: []string{
				unknown, signedFor + "example.com:5000/team/app:1", signedFor + "other.example.com/app:1",
			}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	image.Reference = "elsewhere.example.com/app"
	if got, err = p.Evaluate(t.Context(), image, time.Now()); err != nil || got.Scope != "default" || got.Reference != "elsewhere.example.com/app:latest" || got.Accepted {
		t.Errorf("Evaluate of an image without a scope = %+v, %v", got, err)
	}
}

// TestScopes looks up images in a policy with scopes of each kind.
func TestScopes(t *testing.T) {
	t.Parallel()
	const accept = `:[{"type":"insecureAcceptAnything"}]`
	var scopes []string
	for _, s := range []string{
		"a.example.com/n/r:1", "a.example.com/n/r", "a.example.com/n", "a.example.com", "*.example.com", "*.com", "", "docker.io/library/r", "b.example.org:5000", "*.example.org",
	} {
		scopes = append(scopes, `"`+s+`"`+accept)
	}
	p := parse(t, `{"default":[{"type":"reject"}],"transports":{"docker":{`+strings.Join(scopes, ",")+`}}}`)
	for reference, want := range map[string]string{
		"a.example.com/n/r:1": "a.example.com/n/r:1", "a.example.com/n/r:2": "a.example.com/n/r", "a.example.com/n/s": "a.example.com/n", "a.example.com/n2/s": "a.example.com",
		"a.example.com:80/n/r:1": "*.example.com", "b.a.example.com/n": "*.example.com", "example.com/n": "*.com", "r": "docker.io/library/r", "index.docker.io/r": "docker.io/library/r", "s": "docker",
		"b.example.org:5000/x": "b.example.org:5000", "b.example.org/x": "*.example.org",
	} {
		if got, err := p.Evaluate(t.Context(), policy.Image{Reference: reference}, time.Now()); err != nil || got.Scope != want {
			t.Errorf("%s: scope %q, want %q (%v)", reference, got.Scope, want, err)
		}
	}
}

// TestRejects proves that invalid policies and references are Invalid.
func TestRejects(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "null", "{}", `{"default":[]}`, `{"default":[{"type":"reject"}],"default":[{"type":"reject"}]}`, `{"default":[{"type":"other"}]}`, `{"default":[{"type":"sigstoreSigned","key":1}]}`} {
		if _, err := policy.Parse([]byte(text)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := policy.Parse(make([]byte, policy.MaxSize+1)); !fault.Is(err, fault.TooLarge) {
		t.Errorf("a long policy: %v", err)
	}
	p := parse(t, `{"default":[{"type":"insecureAcceptAnything"}]}`)
	both := "example.com/a:1@" + digest.FromString("x").String()
	for _, reference := range []string{"", "UPPER", both, "[::1]:5000/a:1", strings.Repeat("a", 64)} {
		if _, err := p.Evaluate(t.Context(), policy.Image{Reference: reference}, time.Now()); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", reference, err)
		}
	}
	if _, err := p.Evaluate(t.Context(), policy.Image{Reference: "example.com/a@" + digest.FromString("x").String(), Manifest: []byte("y")}, time.Now()); err == nil {
		t.Error("Evaluate accepts a manifest with another digest than the reference")
	}
}

// TestEvaluateStops proves that PublicKeys and Evaluate return the cause when their context has ended.
func TestEvaluateStops(t *testing.T) {
	t.Parallel()
	key := newSigner(t)
	manifest := []byte("{}")
	image := policy.Image{Reference: "example.com/a:1", Manifest: manifest, Signatures: [][]byte{key.sign(t, manifest, "example.com/a:1")}}
	p := parse(t, `{"default":[{"type":"signedBy","keyType":"GPGKeys","keyData":"`+base64.StdEncoding.EncodeToString(key.public)+`"}]}`)
	cause := errors.New("client disconnected")
	ended, end := context.WithCancelCause(t.Context())
	end(cause)
	if _, err := p.PublicKeys(ended); !errors.Is(err, cause) {
		t.Errorf("PublicKeys = %v", err)
	}
	if _, err := p.Evaluate(ended, image, time.Now()); !errors.Is(err, cause) {
		t.Errorf("Evaluate = %v", err)
	}
	// The end of a context is not cached as an error of the keys.
	if v, err := p.Evaluate(t.Context(), image, time.Now()); err != nil || !v.Accepted {
		t.Errorf("Evaluate afterwards = %+v, %v", v, err)
	}
	if _, err := p.Evaluate(ended, image, time.Now()); !errors.Is(err, cause) {
		t.Errorf("Evaluate with parsed keys = %v", err)
	}
}

// FuzzParse parses policies and evaluates them for references.
func FuzzParse(f *testing.F) {
	f.Add(`{"default":[{"type":"reject"}],"transports":{"docker":{"":[{"type":"insecureAcceptAnything"}]}}}`, "example.com/a:1")
	f.Add(`{"default":[{"type":"signedBy","keyType":"GPGKeys","keyData":"AAAA","signedIdentity":{"type":"remapIdentity","prefix":"a.b","signedPrefix":"c.d"}}]}`, "a.b/c")
	raw, err := os.ReadFile("../testdata/skopeo.sig")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text, reference string) {
		p, err := policy.Parse([]byte(text))
		if err != nil {
			return
		}
		v, err := p.Evaluate(t.Context(), policy.Image{Reference: reference, Signatures: [][]byte{raw}}, time.Now())
		if err != nil {
			return
		}
		accepted := true
		for _, o := range v.Requirements {
			accepted = accepted && o.Accepted
			if o.Accepted != (o.Reason == "") {
				t.Errorf("%+v", o)
			}
		}
		if accepted != v.Accepted || len(v.Requirements) == 0 {
			t.Errorf("%+v", v)
		}
	})
}
