package oidc

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/countersign/countersign/internal/fault"
)

// Times of the keys of an issuer.
const (
	freshTime   = time.Hour        // after which keys are read again
	staleTime   = 24 * time.Hour   // after which keys that could not be read again are no longer used
	minInterval = time.Minute      // between two attempts, so that forged tokens cause few requests
	readTimeout = 10 * time.Second // of one attempt
)

// Limits of the keys of an issuer.
const (
	maxKeys   = 100
	minRSABit = 2048
	maxRSABit = 8192
)

// keyring contains the keys of an issuer. It reads them when a token needs them. It is safe for concurrent use.
type keyring struct {
	source source
	issuer string
	now    func() time.Time
	log    *slog.Logger

	mu      sync.Mutex
	keys    []jose.JSONWebKey
	read    time.Time     // of the keys; zero before the first success
	tried   time.Time     // the start of the last attempt
	running chan struct{} // closed when the attempt that is under way ends; nil without one
}

// verify verifies the signature of a token. The error is Unauthenticated if no key of the issuer verifies it, and
// Unavailable if the keys cannot be read.
func (k *keyring) verify(ctx context.Context, t *token) error {
	keys, err := k.forToken(ctx, t.keyID)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if key.Algorithm != "" && key.Algorithm != t.algorithm {
			continue
		}
		if _, err := t.signature.Verify(key.Key); err == nil {
			return nil
		}
	}
	return refuse("no key of %s verifies the signature, with the key id %.100q", k.issuer, t.keyID)
}

// forToken returns the keys that may have signed a token with this key id.
func (k *keyring) forToken(ctx context.Context, id string) ([]jose.JSONWebKey, error) {
	if keys := k.fresh(id); keys != nil {
		return keys, nil
	}
	if err := k.refresh(ctx); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.read.IsZero() || k.now().Sub(k.read) > staleTime {
		return nil, &fault.Error{
			Kind: fault.Unavailable, Msg: "The keys of the id token's issuer cannot be read at present. Try again later.",
			Err:        fmt.Errorf("the keys of %s are not available", k.issuer),
			RetryAfter: max(0, minInterval-k.now().Sub(k.tried)),
		}
	}
	return k.named(id), nil
}

// fresh returns the keys with this id if they need not be read again.
func (k *keyring) fresh(id string) []jose.JSONWebKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.read.IsZero() || k.now().Sub(k.read) > freshTime {
		return nil
	}
	return k.named(id)
}

// named returns the keys with an id. A token without a key id is for the only key of its issuer.
func (k *keyring) named(id string) (found []jose.JSONWebKey) {
	if id == "" {
		if len(k.keys) != 1 {
			return nil
		}
		return k.keys
	}
	for _, key := range k.keys {
		if key.KeyID == id {
			found = append(found, key)
		}
	}
	return found
}

// refresh reads the keys, or waits for another call that does, unless the last attempt began less than minInterval ago.
// The attempt does not end with ctx: a client that hangs up must not spoil it for the others.
func (k *keyring) refresh(ctx context.Context) error {
	k.mu.Lock()
	if k.running == nil {
		if !k.tried.IsZero() && k.now().Sub(k.tried) < minInterval {
			k.mu.Unlock()
			return nil
		}
		k.tried = k.now()
		k.running = make(chan struct{})
		go k.attempt(context.WithoutCancel(ctx))
	}
	running := k.running
	k.mu.Unlock()
	select {
	case <-running:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// attempt reads the keys once.
func (k *keyring) attempt(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	keys, err := k.source(ctx)
	if err != nil {
		k.log.WarnContext(ctx, "the keys of an issuer of id tokens cannot be read; tokens with unknown keys are refused",
			slog.String("issuer", k.issuer), slog.Any("err", err))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.keys, k.read = keys, k.now()
	}
	close(k.running)
	k.running = nil
}

// parseKeys reads a JSON Web Key Set. It leaves out keys that cannot verify a token. It is an error if none is left.
func parseKeys(raw []byte) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, fmt.Errorf("JSON Web Key Set: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("JSON Web Key Set: more than %d keys", maxKeys)
	}
	var keys []jose.JSONWebKey
	for _, one := range set.Keys {
		var key jose.JSONWebKey
		if err := key.UnmarshalJSON(one); err == nil && verifies(key) {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("JSON Web Key Set: no key can verify signatures")
	}
	return keys, nil
}

// verifies reports whether a key is a public key for signatures with a sufficient size.
func verifies(key jose.JSONWebKey) bool {
	if !key.Valid() || !key.IsPublic() || key.Use != "" && key.Use != "sig" {
		return false
	}
	r, ok := key.Key.(*rsa.PublicKey)
	return !ok || r.N.BitLen() >= minRSABit && r.N.BitLen() <= maxRSABit
}
