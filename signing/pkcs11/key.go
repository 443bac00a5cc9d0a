//go:build cgo

package pkcs11

import (
	"context"
	"crypto"
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/retry"
)

// The libraries, tokens and keys of this process. A library has one state in the process, so all signers share it.
var (
	registryMu sync.Mutex
	modules    = map[string]*module{}
	tokens     = map[[3]string]*token{}
	keys       = map[[4]string]*key{}
)

// key is a private key in a token. It is safe for concurrent use.
type key struct {
	uri   URI
	token *token

	mu      sync.Mutex
	known   bool // err is the result of a use or a probe
	err     error
	checked time.Time
	probing chan struct{} // closed when the current probe ends; nil when none runs
}

// openKey returns the key of a URI. It does not use the token.
func openKey(u URI) *key {
	registryMu.Lock()
	defer registryMu.Unlock()
	m := modules[u.Module]
	if m == nil {
		m = newModule(u.Module, loadLibrary)
		modules[u.Module] = m
	}
	id := [3]string{u.Module, u.tokenName(), u.PINFile}
	t := tokens[id]
	if t == nil {
		t = &token{uri: u, mod: m}
		tokens[id] = t
	}
	keyID := [4]string{id[0], id[1], id[2], u.keyName()}
	k := keys[keyID]
	if k == nil {
		k = &key{uri: u, token: t}
		keys[keyID] = k
	}
	return k
}

// usable returns the result of the key's last use or probe, and starts a probe when the result is old. Only the first
// call waits for the probe, for one second at most.
func (k *key) usable() error {
	k.mu.Lock()
	interval := probeInterval
	if k.err != nil {
		interval = failedInterval
	}
	if k.probing == nil && (!k.known || time.Since(k.checked) >= interval) {
		k.probing = make(chan struct{})
		go k.probe()
	}
	probe, first := k.probing, !k.known
	k.mu.Unlock()
	if first {
		select {
		case <-probe:
		case <-time.After(time.Second):
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.known {
		k.known, k.err = true, errTimeout
	}
	return k.err
}

// probe finds the key in its token and records the result.
func (k *key) probe() {
	ctx := context.Background() //nolint:forbidigo // no caller waits for the probe, and calls have a timeout
	_, _ = withRetry(ctx, k, 0, func(c *conn) (*object, error) {
		return withSession(ctx, k.token, c, func(lib cryptoki, s pkcs11.SessionHandle) (*object, error) { return k.find(lib, s) })
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.probing)
	k.probing = nil
}

// record keeps the result of a use of the key for usable.
func (k *key) record(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.known, k.err, k.checked = true, err, time.Now()
}

// withRetry calls f with sessions of the key's token. While the token is unavailable it calls f again: once at once,
// since a restart of the library for another token ends all sessions, and then until wait has passed. A retry does
// not log in more often than token.connection allows.
//
// It returns the cause of the end of ctx, the first other error, or an outage of fault.SigningKey.
func withRetry[T any](ctx context.Context, k *key, wait time.Duration, f func(*conn) (T, error)) (T, error) {
	attempt := func(ctx context.Context) (value T, err error) {
		c, err := k.token.connection(ctx)
		if err == nil {
			value, err = f(c)
		}
		if ctx.Err() != nil && err != nil {
			return value, retry.Permanent(context.Cause(ctx))
		}
		k.record(err)
		if !isUnavailable(err) {
			err = retry.Permanent(err)
		}
		return value, err
	}
	value, err := retry.Do(ctx, retry.Policy{Attempts: 1}, attempt)
	if ctx.Err() != nil || !isUnavailable(err) {
		return value, err
	}
	again := retry.Policy{Elapsed: wait, First: 25 * time.Millisecond, Max: time.Second}
	if wait <= 0 {
		again = retry.Policy{Attempts: 1}
	}
	value, err = retry.Do(ctx, again, attempt)
	if ctx.Err() == nil && isUnavailable(err) {
		err = unreachable(err)
	}
	return value, err
}

// unreachable returns the error for callers when the token stayed unavailable.
func unreachable(err error) error {
	cause := err.Error() + "."
	if msg, ok := fault.Message(err); ok {
		cause = msg
	}
	return fault.NewOutage(fault.SigningKey, err, "The signing key cannot be reached: %s", cause)
}

// public returns the public key, or nil when the token does not show it. It waits for an unavailable token.
func (k *key) public(ctx context.Context, wait time.Duration) (crypto.PublicKey, error) {
	return withRetry(ctx, k, wait, func(c *conn) (crypto.PublicKey, error) {
		o, err := withSession(ctx, k.token, c, func(lib cryptoki, s pkcs11.SessionHandle) (*object, error) {
			return k.object(c, lib, s)
		})
		if err != nil {
			return nil, err
		}
		return o.public, nil
	})
}

// sign returns a signature of a digest: PKCS #1 v1.5 for RSA, ASN.1 for ECDSA. It waits for an unavailable token.
func (k *key) sign(ctx context.Context, wait time.Duration, hash crypto.Hash, digest []byte) ([]byte, error) {
	return withRetry(ctx, k, wait, func(c *conn) ([]byte, error) {
		return withSession(ctx, k.token, c, func(lib cryptoki, s pkcs11.SessionHandle) ([]byte, error) {
			o, err := k.object(c, lib, s)
			if err != nil {
				return nil, err
			}
			return o.sign(lib, s, hash, digest)
		})
	})
}
