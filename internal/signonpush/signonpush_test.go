package signonpush_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/signonpush"
	"github.com/countersign/countersign/internal/signservice"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/store/content"
	"github.com/countersign/countersign/internal/store/record"
	"github.com/countersign/countersign/internal/store/signatures"
	"github.com/countersign/countersign/internal/store/storetest"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
)

const host = "registry.example"

// fixture is a repository that signs on push, and a Runner.
type fixture struct {
	*testing.T
	store   *store.Store
	target  record.Target
	service pulp.SigningService
	key     *signtest.Key
	runner  *signonpush.Runner

	// sign replaces the signer if it is not nil.
	sign  func(context.Context, signing.Request) ([]byte, error)
	signs atomic.Int64 // calls of the signer
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, store: storetest.Open(t), key: signtest.NewKey(t, time.Now().Add(-time.Hour), 0)}
	var err error
	f.service, err = f.store.Signatures.AddSigningService(t.Context(), pulp.SigningService{
		Name: "svc", Class: pulp.ManifestSigningService, Kind: pulp.ServiceScript,
		Fingerprint: f.key.Public.Fingerprint(), PublicKey: f.key.Armor,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.store.Signatures.SetPushPolicy(signatures.PushPolicy{Host: host, Service: func(string) string { return "svc" }})
	f.target = storetest.Target(t, f.store, "acme/app")
	log := slog.New(slog.DiscardHandler)
	f.runner = &signonpush.Runner{
		Store: f.store, Log: log, Timeout: time.Minute,
		Signer: &signservice.Signer{
			Store: f.store, Parallel: 2,
			SignerFor: func(pulp.SigningService) (signing.Signer, error) { return f, nil },
			Usable:    func(pulp.SigningService) bool { return true },
		},
		SignElsewhere: func(context.Context, signservice.Caller, *content.MissingSignatures) error {
			t.Error("SignElsewhere was called for a usable service")
			return nil
		},
		SignLater: func(context.Context, signservice.Caller, *content.MissingSignatures) error {
			t.Error("SignLater was called")
			return nil
		},
	}
	return f
}

// Sign implements signing.Signer.
func (f *fixture) Sign(ctx context.Context, r signing.Request) ([]byte, error) {
	f.signs.Add(1)
	if f.sign != nil {
		return f.sign(ctx, r)
	}
	return f.key.Sign(f, r.Claim, time.Now()), nil
}

// push returns a change that pushes an image.
func (f *fixture) push(text string, tags ...string) (pulp.Manifest, func(context.Context) error) {
	return f.pushIf(nil, text, tags...)
}

// pushIf is push with a precondition for the tags.
func (f *fixture) pushIf(when func(digest.Digest) bool, text string, tags ...string) (pulp.Manifest, func(context.Context) error) {
	f.Helper()
	id := f.target.Repository.ID
	m := storetest.Image(storetest.PushBlob(f.T, f.store, id, "config "+text), storetest.PushBlob(f.T, f.store, id, "layer "+text))
	return m, func(ctx context.Context) error {
		_, err := f.store.Content.PutManifest(ctx, content.PutManifest{RepositoryID: id, Manifest: m, Tags: tags, When: when})
		return err
	}
}

// run runs a change outside tasks.
func (f *fixture) run(change func(context.Context) error) error {
	return f.runner.Run(f.Context(), signservice.Caller{User: "alice"}, change)
}

// wantReferences compares the references of the signatures that are served for a tag or digest. Without references
// the tag must not be served.
func (f *fixture) wantReferences(tag string, want ...string) {
	f.Helper()
	m, err := f.store.Serving.ServedManifest(f.Context(), f.target, tag)
	if len(want) == 0 {
		if !fault.Is(err, fault.NotFound) {
			f.Errorf("%s is served: %v", tag, err)
		}
		return
	}
	if err != nil {
		f.Fatalf("%s is not served: %v", tag, err)
	}
	served, err := f.store.Serving.ServedSignatures(f.Context(), f.target, m.ID)
	if err != nil {
		f.Fatal(err)
	}
	var got []string
	for _, g := range served {
		got = append(got, g.Reference)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		f.Errorf("%s has signatures for %q, want %q", tag, got, want)
	}
}

func TestRunSignsBeforeTheChangeIsVisible(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, push := f.push("one", "v1", "latest")
	calls := 0
	err := f.run(func(ctx context.Context) error {
		calls++
		if calls == 1 {
			defer f.wantReferences("v1")
		}
		return push(ctx)
	})
	if err != nil || calls != 2 {
		t.Errorf("Run = %v after %d calls of the change, want 2", err, calls)
	}
	f.wantReferences("v1", host+"/acme/app:latest", host+"/acme/app:v1")
	version, err := f.store.Content.Version(t.Context(), f.target.Repository.ID, 1)
	if err != nil || version.Counts[pulp.KindTag].Added != 2 || version.Counts[pulp.KindSignature].Added != 2 {
		t.Errorf("version 1 is %+v, %v; want 2 tags and 2 signatures added", version, err)
	}
}

func TestRunCallsOtherChangesOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	refused := errors.New("refused")
	for name, want := range map[string]error{"a change without tags": nil, "a change that fails": refused} {
		calls := 0
		if err := f.run(func(context.Context) error { calls++; return want }); !errors.Is(err, want) || calls != 1 {
			t.Errorf("%s: Run = %v after %d calls, want %v after 1", name, err, calls, want)
		}
	}
	if n := f.signs.Load(); n != 0 {
		t.Errorf("%d signatures were made", n)
	}
}

// TestSigningFails proves which failures are outages of the signing key, so that a task waits for the key, and which
// part of an error clients see.
func TestSigningFails(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err    error // of the signer
		outage bool
		want   string // part of the message
	}{
		"the signer refuses": {
			err: fault.New(fault.Invalid, "gpg: signing failed: No secret key"), want: "svc did not sign: gpg: signing failed: No secret key",
		},
		"the token does not answer": {
			err: fault.NewOutage(fault.SigningKey, nil, "The token does not answer."), outage: true, want: "The token does not answer.",
		},
		"the signer is unavailable": {err: fault.New(fault.Unavailable, "Try again."), outage: true, want: "Try again."},
		"the database does not answer": {
			err: fault.NewOutage(fault.Database, nil, "The database does not answer."), want: "The database does not answer.",
		},
		"an internal error": {err: errors.New("/secret/path: permission denied"), want: "the server's log says why."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.sign = func(context.Context, signing.Request) ([]byte, error) { return nil, tt.err }
			_, push := f.push("one", "v1")
			err := f.run(push)
			if !fault.Is(err, fault.Unavailable) || !errors.Is(err, tt.err) || fault.IsOutage(err, fault.SigningKey) != tt.outage {
				t.Errorf("Run = %v, want Unavailable, outage of the key: %t", err, tt.outage)
			}
			if msg, _ := fault.Message(err); !strings.Contains(msg, tt.want) || strings.Contains(msg, "/secret") {
				t.Errorf("the message is %q, want %q in it", msg, tt.want)
			}
			f.wantReferences("v1")
		})
	}
}

// untilDone is a signer that waits for the end of its context.
func untilDone(ctx context.Context, _ signing.Request) ([]byte, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

func TestTimeoutOfAPush(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.sign, f.runner.Timeout = untilDone, 20*time.Millisecond
	_, push := f.push("one", "v1")
	err := f.run(push)
	if !fault.IsOutage(err, fault.SigningKey) || !errors.Is(err, signonpush.ErrTimeout) {
		t.Errorf("Run = %v, want an outage after the timeout", err)
	}
	if msg, _ := fault.Message(err); !strings.HasSuffix(msg, "did not sign: it took too long.") {
		t.Errorf("the message is %q", msg)
	}
}

// TestTasksHaveNoTimeoutWithAKeyHere proves that only pushes and delegated signatures have a deadline.
func TestTasksHaveNoTimeoutWithAKeyHere(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, push := f.push("one", "v1")
	f.sign = func(ctx context.Context, r signing.Request) ([]byte, error) {
		if deadline, ok := ctx.Deadline(); ok {
			t.Errorf("the signer of a task has the deadline %v", deadline)
		}
		return f.key.Sign(t, r.Claim, time.Now()), nil
	}
	if err := f.runner.Run(t.Context(), signservice.Caller{Task: "task"}, push); err != nil {
		t.Fatal(err)
	}
	f.runner.Signer.Usable = func(pulp.SigningService) bool { return false }
	f.runner.SignElsewhere = func(ctx context.Context, _ signservice.Caller, _ *content.MissingSignatures) error {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("SignElsewhere has no deadline")
		}
		return errors.New("no process")
	}
	_, push = f.push("two", "v2")
	if err := f.runner.Run(t.Context(), signservice.Caller{Task: "task"}, push); err == nil {
		t.Error("Run succeeded without signatures")
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.runner.AcceptUnsigned = true
	cause := errors.New("client disconnected")
	ctx, cancel := context.WithCancelCause(t.Context())
	f.sign = func(ctx context.Context, r signing.Request) ([]byte, error) {
		cancel(cause)
		return untilDone(ctx, r)
	}
	_, push := f.push("one", "v1")
	if err := f.runner.Run(ctx, signservice.Caller{}, push); !errors.Is(err, cause) || fault.Is(err, fault.Unavailable) {
		t.Errorf("Run = %v, want the cause of the context's end", err)
	}
	f.wantReferences("v1")
}

func TestAcceptUnsigned(t *testing.T) {
	t.Parallel()
	for name, later := range map[string]error{"a task signs later": nil, "no task signs later": errors.New("no queue")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.runner.AcceptUnsigned = true
			f.sign = func(context.Context, signing.Request) ([]byte, error) { return nil, errors.New("no key") }
			requested := 0
			f.runner.SignLater = func(ctx context.Context, caller signservice.Caller, missing *content.MissingSignatures) error {
				requested++
				if caller.User != "alice" || missing.RepositoryID != f.target.Repository.ID || len(missing.Missing) != 1 {
					t.Errorf("SignLater(%+v, %+v)", caller, missing)
				}
				if m, err := f.store.Serving.ServedManifest(ctx, f.target, "v1"); err != nil {
					t.Errorf("SignLater runs before the change: %+v, %v", m, err)
				}
				return later
			}
			_, push := f.push("one", "v1")
			if err := f.run(push); err != nil || requested != 1 {
				t.Errorf("Run = %v, with %d calls of SignLater, want 1", err, requested)
			}
		})
	}
}

// TestAcceptUnsignedReturnsErrorsOfTheChange proves that SignLater is not called for a change that fails.
func TestAcceptUnsignedReturnsErrorsOfTheChange(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.runner.AcceptUnsigned = true
	f.sign = func(context.Context, signing.Request) ([]byte, error) { return nil, errors.New("no key") }
	_, push := f.push("one", "v1")
	calls, full := 0, errors.New("disk full")
	if err := f.run(func(ctx context.Context) error {
		if calls++; calls > 1 {
			return full
		}
		return push(ctx)
	}); !errors.Is(err, full) {
		t.Errorf("Run = %v, want the error of the change", err)
	}
}

func TestSignElsewhere(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.runner.Signer.Usable = func(s pulp.SigningService) bool {
		if s.ID != f.service.ID {
			t.Errorf("Usable(%+v)", s)
		}
		return false
	}
	f.runner.SignElsewhere = func(ctx context.Context, caller signservice.Caller, missing *content.MissingSignatures) error {
		if caller.User != "alice" {
			t.Errorf("the caller is %+v", caller)
		}
		return f.runner.SignMissing(ctx, caller, missing.RepositoryID, missing.Service, missing.Missing) // as the other process does
	}
	_, push := f.push("one", "v1")
	if err := f.run(push); err != nil {
		t.Errorf("Run = %v", err)
	}
	f.wantReferences("v1", host+"/acme/app:v1")

	f.runner.SignElsewhere = func(context.Context, signservice.Caller, *content.MissingSignatures) error {
		return fault.NewOutage(fault.SigningKey, nil, "no process that can use its key has signed in time.")
	}
	_, push = f.push("two", "v2")
	if err := f.run(push); !fault.IsOutage(err, fault.SigningKey) {
		t.Errorf("Run = %v, want an outage of the key", err)
	}
	f.wantReferences("v2")
}

// TestRefusedPushLeavesNoSignatures proves that signatures for a tag that has moved meanwhile are deleted: a later
// push of the same image must not show a signature that claims the tag.
func TestRefusedPushLeavesNoSignatures(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	absent := func(current digest.Digest) bool { return current == "" }
	loser, push := f.pushIf(absent, "loser", "v1")
	_, winner := f.push("winner", "v1")
	calls := 0
	err := f.run(func(ctx context.Context) error {
		if calls++; calls == 2 { // after the signatures were made
			if err := f.run(winner); err != nil {
				t.Error(err)
			}
		}
		return push(ctx)
	})
	if moved, ok := errors.AsType[*content.TagMoved](err); !ok || moved.Name != "v1" {
		t.Errorf("Run = %v, want that the tag has moved", err)
	}
	f.wantReferences("v1", host+"/acme/app:v1")
	f.wantReferences(string(loser.Digest))
	_, push = f.push("loser", "v2")
	if err := f.run(push); err != nil {
		t.Fatal(err)
	}
	f.wantReferences("v2", host+"/acme/app:v2")
}

// TestRunGivesUp proves that a change that always needs other signatures ends.
func TestRunGivesUp(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	m, push := f.push("one", "v1")
	if err := f.run(push); err != nil {
		t.Fatal(err)
	}
	calls := 0
	err := f.run(func(context.Context) error {
		calls++
		return &content.MissingSignatures{
			RepositoryID: f.target.Repository.ID, Service: f.service,
			Missing: []content.MissingSignature{{Digest: m.Digest, Reference: fmt.Sprintf("%s/acme/app:%d", host, calls)}},
		}
	})
	if !fault.Is(err, fault.Unavailable) || fault.IsOutage(err, fault.SigningKey) || calls != 8 {
		t.Errorf("Run = %v after %d calls, want Unavailable after 8", err, calls)
	}
}

// TestSignMissingInBatches proves that batches are kept when a later one fails, so that the next attempt needs fewer
// signatures.
func TestSignMissingInBatches(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	m, push := f.push("one", "v0")
	if err := f.run(push); err != nil {
		t.Fatal(err)
	}
	const batch = 64
	var tags []string
	var missing []content.MissingSignature
	for i := range batch + 1 {
		tags = append(tags, fmt.Sprintf("t%d", i))
		missing = append(missing, content.MissingSignature{Digest: m.Digest, Reference: host + "/acme/app:" + tags[i]})
	}
	missing[batch].Digest = digest.FromString("absent")
	err := f.runner.SignMissing(t.Context(), signservice.Caller{}, f.target.Repository.ID, f.service, missing)
	if !fault.Is(err, fault.NotFound) {
		t.Errorf("SignMissing with an absent manifest = %v, want NotFound", err)
	}
	before := f.signs.Load()
	_, push = f.push("one", tags...)
	if err := f.run(push); err != nil {
		t.Fatal(err)
	}
	if n := f.signs.Load() - before; n != 1 {
		t.Errorf("the push made %d signatures, want 1 beside the %d that are kept", n, batch)
	}
}

func TestSignMissingNeedsTheKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	absent := fault.New(fault.Invalid, "The key file is missing.")
	f.runner.Signer.SignerFor = func(pulp.SigningService) (signing.Signer, error) { return nil, absent }
	if err := f.runner.SignMissing(t.Context(), signservice.Caller{}, f.target.Repository.ID, f.service, nil); !errors.Is(err, absent) {
		t.Errorf("SignMissing = %v, want the error of SignerFor", err)
	}
}
