// Package signservice signs manifests with signing services and writes an audit entry for each use of a key.
//
// It selects the signer of a service and builds the row of each signature. It stores nothing. How a key signs is the
// subject of the packages below signing.
package signservice

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/actor"
	"github.com/countersign/countersign/internal/audit"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/internal/store"
	"github.com/countersign/countersign/internal/telemetry"
	"github.com/countersign/countersign/signing"
)

// Signer signs with the signing services of this process. It is safe for concurrent use.
type Signer struct {
	// Store provides the manifests to sign.
	Store *store.Store
	// Audit receives an entry for each use of a key.
	Audit *audit.Log
	// SignerFor returns the signer that uses the key of a service.
	SignerFor func(pulp.SigningService) (signing.Signer, error)
	// Usable reports whether this process can sign with a service now.
	Usable func(pulp.SigningService) bool
	// Parallel is the maximum number of signatures that one session makes at a time.
	Parallel int
	// Observe receives each use of a key with the name of the service; nil: nothing does.
	Observe func(service string, result Result, took time.Duration)
}

// Result is the result of the use of a key.
type Result string

// The results of uses of keys.
const (
	Made        Result = "made"
	Failed      Result = "failed"
	Unavailable Result = "unavailable" // the token or the program with the key does not answer
	Canceled    Result = "canceled"
)

// Results returns all results.
func Results() []Result { return []Result{Made, Failed, Unavailable, Canceled} }

// resultOf returns the result for the error of a signature.
func resultOf(ctx context.Context, err error) Result {
	switch {
	case err == nil:
		return Made
	case ctx.Err() != nil:
		return Canceled
	case fault.IsOutage(err, fault.SigningKey):
		return Unavailable
	}
	return Failed
}

// Caller identifies the user and the task that use a key. Audit entries contain it.
type Caller struct {
	User string // user name; empty when the server acts for itself
	Task string // task id; empty outside tasks
}

// Session signs with one service for one caller. It is safe for concurrent use.
type Session struct {
	signer  *Signer
	service string
	caller  Caller
	checked *signing.Checked
}

// Open starts a session with a service. It fails when the service's public key cannot be parsed, or with the error of
// SignerFor.
func (s *Signer) Open(service pulp.SigningService, caller Caller) (*Session, error) {
	key, err := signing.ParsePublicKey(service.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("public key of signing service %s: %w", service.Name, err)
	}
	signer, err := s.SignerFor(service)
	if err != nil {
		return nil, err
	}
	return &Session{s, service.Name, caller, signing.NewChecked(signing.NewSlots(s.Parallel).Limited(signer), key)}, nil
}

// Concurrency returns the number of goroutines that should call Sign to keep the key busy: while one signature is made
// another one is verified. It is twice Parallel, and at least 2.
func (s *Session) Concurrency() int { return 2 * max(1, s.signer.Parallel) }

// Sign signs a manifest for one docker reference, verifies the signature with the service's public key and returns its
// row. The row is not stored. manifestID is the id of the manifest with the given digest.
func (s *Session) Sign(ctx context.Context, manifestID string, manifest digest.Digest, reference string) (pulp.Signature, error) {
	began := time.Now()
	ctx, span := telemetry.StartSpan(ctx, telemetry.KindInternal, "sign", slog.String("countersign.service", s.service),
		slog.String("countersign.digest", string(manifest)))
	made, err := s.checked.Sign(ctx, signing.Request{
		Claim:         signing.Claim{ManifestDigest: manifest, DockerReference: reference},
		Manifest:      func(ctx context.Context) ([]byte, error) { return s.signer.Store.Serving.Payload(ctx, manifestID) },
		CorrelationID: telemetry.Correlation(ctx),
	})
	span.End(err)
	if s.signer.Observe != nil {
		s.signer.Observe(s.service, resultOf(ctx, err), time.Since(began))
	}
	entry := audit.Entry{Action: audit.Sign, Object: reference, Result: audit.Done}
	details := []slog.Attr{slog.String("key", s.checked.Fingerprint()), slog.String("digest", string(manifest))}
	if s.caller.Task != "" {
		details = append(details, slog.String("task", s.caller.Task))
	}
	if by := actor.From(ctx); s.caller.User != "" && s.caller.User != by.Name {
		details = append(details, slog.String("on_behalf_of", s.caller.User))
	}
	if err != nil {
		entry.Result, details = audit.Failed, append(details, slog.Any("err", err))
	} else {
		details = append(details, slog.String("signature", string(signing.Digest(made.Raw))))
	}
	s.signer.Audit.Record(ctx, entry, details...)
	if err != nil {
		return pulp.Signature{}, err
	}
	return row(manifestID, made), nil
}

// row returns the row of a verified signature.
func row(manifestID string, made signing.Made) pulp.Signature {
	verified := made.Verified
	claim := verified.Claim()
	fingerprint := verified.IssuerFingerprint()
	return pulp.Signature{
		Digest: signing.Digest(made.Raw), Name: signing.Name(claim.ManifestDigest, made.Raw),
		ManifestID: manifestID, Content: made.Raw,
		KeyID: verified.KeyID(), Fingerprint: &fingerprint, VerifiedBy: verified.Fingerprint(),
		Reference: claim.DockerReference, Creator: claim.Creator, SignedAt: verified.CreatedAt().Unix(),
	}
}
