package signservice_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pgtest"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/internal/telemetry"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// signerFunc is a signing.Signer.
type signerFunc func(context.Context, signing.Request) ([]byte, error)

func (f signerFunc) Sign(ctx context.Context, r signing.Request) ([]byte, error) { return f(ctx, r) }

// fixture has one pushed image and a Signer whose entries are in log.
type fixture struct {
	store    *store.Store
	manifest pulp.Manifest
	key      *signtest.Key
	service  pulp.SigningService
	log      bytes.Buffer
	signer   *signservice.Signer
}

func newFixture(t *testing.T, sign signerFunc) *fixture {
	t.Helper()
	f := &fixture{store: storetest.Open(t), key: signtest.NewKey(t, time.Now().Add(-time.Hour), 0)}
	target := storetest.Target(t, f.store, "acme/app")
	pushed, _ := storetest.PushImage(t, f.store, target.Repository.ID, "one", "v1")
	var err error
	if f.manifest, err = f.store.Serving.ManifestByDigest(t.Context(), pushed.Digest); err != nil {
		t.Fatal(err)
	}
	f.service = pulp.SigningService{Name: "svc", PublicKey: f.key.Armor}
	if sign == nil {
		sign = func(_ context.Context, r signing.Request) ([]byte, error) {
			return f.key.Sign(t, r.Claim, time.Now()), nil
		}
	}
	f.signer = &signservice.Signer{
		Store: f.store, Audit: audit.New(audit.Options{Log: slog.New(slog.NewJSONHandler(&f.log, nil))}), Parallel: 3,
		SignerFor: func(pulp.SigningService) (signing.Signer, error) { return sign, nil },
	}
	return f
}

// entry returns the only entry of the log.
func (f *fixture) entry(t *testing.T) map[string]any {
	t.Helper()
	var entry map[string]any
	if err := json.Unmarshal(f.log.Bytes(), &entry); err != nil {
		t.Fatalf("the log is %q: %v", f.log.String(), err)
	}
	return entry
}

const reference = "registry.example/acme/app:v1"

func TestSign(t *testing.T) {
	t.Parallel()
	var got signing.Request
	var payload []byte
	var f *fixture
	f = newFixture(t, func(ctx context.Context, r signing.Request) (raw []byte, err error) {
		got = r
		payload, err = r.Manifest(ctx)
		return f.key.Sign(t, r.Claim, time.Now()), err
	})
	session, err := f.signer.Open(f.service, signservice.Caller{User: "alice", Task: "task-1"})
	if err != nil {
		t.Fatal(err)
	}
	if n := session.Concurrency(); n != 6 {
		t.Errorf("Concurrency = %d, want twice Parallel", n)
	}
	ctx := telemetry.WithCorrelation(actor.With(t.Context(), actor.Actor{ID: 1, Name: "alice", Kind: actor.User}), "request-1")
	row, err := session.Sign(ctx, f.manifest.ID, f.manifest.Digest, reference)
	if err != nil {
		t.Fatal(err)
	}
	if got.Claim.ManifestDigest != f.manifest.Digest || got.Claim.DockerReference != reference || got.CorrelationID != "request-1" {
		t.Errorf("the request is %+v", got)
	}
	if !bytes.Equal(payload, f.manifest.Payload) {
		t.Errorf("the signer read the manifest %q, want %q", payload, f.manifest.Payload)
	}
	fingerprint := f.key.Public.Fingerprint()
	if row.Digest != signing.Digest(row.Content) || row.Name != signing.Name(f.manifest.Digest, row.Content) || row.ManifestID != f.manifest.ID ||
		row.KeyID != fingerprint[24:] || *row.Fingerprint != fingerprint || row.VerifiedBy != fingerprint || row.Reference != reference {
		t.Errorf("the row is %+v", row)
	}
	if age := time.Since(time.Unix(row.SignedAt, 0)); age < -time.Second || age > time.Minute {
		t.Errorf("the signature is %v old", age)
	}
	entry := f.entry(t)
	for name, want := range map[string]string{
		"level": "INFO", "msg": "audit", "action": "sign", "who": "alice", "task": "task-1", "key": fingerprint, "digest": string(f.manifest.Digest),
		"object": reference, "result": "done", "signature": string(row.Digest),
	} {
		if entry[name] != want {
			t.Errorf("the audit entry has %s = %v, want %s", name, entry[name], want)
		}
	}
}

func TestSignFails(t *testing.T) {
	t.Parallel()
	var f *fixture
	refused := errors.New("gpg: signing failed: No secret key")
	for name, tt := range map[string]struct {
		sign signerFunc
		kind fault.Kind
		want string
	}{
		"the signer fails": {sign: func(context.Context, signing.Request) ([]byte, error) { return nil, refused }, want: refused.Error()},
		"the signer signs for another reference": {sign: func(_ context.Context, r signing.Request) ([]byte, error) {
			r.Claim.DockerReference = "registry.example/acme/other:v1"
			return f.key.Sign(t, r.Claim, time.Now()), nil
		}, kind: fault.Invalid, want: "is for another reference"},
	} {
		f = newFixture(t, tt.sign)
		session, err := f.signer.Open(f.service, signservice.Caller{User: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		row, err := session.Sign(t.Context(), f.manifest.ID, f.manifest.Digest, reference)
		if err == nil || fault.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.want) || row.Content != nil {
			t.Errorf("%s: Sign = %+v, %v, want %q", name, row, err, tt.want)
		}
		entry := f.entry(t)
		if message, _ := entry["err"].(string); entry["who"] != "system" || entry["on_behalf_of"] != "alice" || entry["result"] != "failed" || !strings.Contains(message, tt.want) || entry["signature"] != nil {
			t.Errorf("%s: the audit entry is %v", name, entry)
		}
	}
}

func TestOpenFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	if _, err := f.signer.Open(pulp.SigningService{Name: "broken", PublicKey: "no key"}, signservice.Caller{}); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "broken") {
		t.Errorf("Open with an invalid public key = %v, want Invalid with the name of the service", err)
	}
	absent := fault.New(fault.Invalid, "The key file is missing.")
	f.signer.SignerFor = func(pulp.SigningService) (signing.Signer, error) { return nil, absent }
	if _, err := f.signer.Open(f.service, signservice.Caller{}); !errors.Is(err, absent) {
		t.Errorf("Open = %v, want the error of SignerFor", err)
	}
}

// TestSessionLimitsConcurrency proves that a session calls its signer at most Parallel times concurrently.
func TestSessionLimitsConcurrency(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}, 10), make(chan struct{})
	var f *fixture
	f = newFixture(t, func(_ context.Context, r signing.Request) ([]byte, error) {
		entered <- struct{}{}
		<-release
		return f.key.Sign(t, r.Claim, time.Now()), nil
	})
	session, err := f.signer.Open(f.service, signservice.Caller{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	for range 5 {
		go func() {
			_, err := session.Sign(t.Context(), f.manifest.ID, f.manifest.Digest, reference)
			done <- err
		}()
	}
	for range f.signer.Parallel {
		<-entered
	}
	select {
	case <-entered:
		t.Errorf("the signer is called more than %d times concurrently", f.signer.Parallel)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	for range 5 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
