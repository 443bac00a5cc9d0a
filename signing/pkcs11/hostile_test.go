//go:build cgo

package pkcs11

import (
	"crypto"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
)

// faultyLibrary is SoftHSM with signatures and logins that a test changes.
type faultyLibrary struct {
	*wrapped
	sign  func(raw []byte, err error) ([]byte, error) // replaces the result of each signature
	login func() error                                // runs before each login, if not nil
}

func (l *faultyLibrary) Login(s pkcs11.SessionHandle, user uint, pin string) error {
	if l.login != nil {
		if err := l.login(); err != nil {
			return err
		}
	}
	return l.wrapped.Login(s, user, pin)
}

func (l *faultyLibrary) Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error) {
	return l.sign(l.wrapped.Sign(s, message))
}

// faultyKey returns a key in SoftHSM behind l. It has its own sessions.
func faultyKey(t *testing.T, text string, l *faultyLibrary) *key {
	t.Helper()
	u, err := ParseURI(text)
	if err != nil {
		t.Fatal(err)
	}
	l.wrapped = &wrapped{slots: map[pkcs11.SessionHandle]uint{}}
	m := newModule(u.Module, func(path string) cryptoki {
		l.cryptoki = loadLibrary(path)
		return l
	})
	return &key{uri: u, token: &token{uri: u, mod: m}}
}

// TestLostSessions proves that an invalid session is replaced without an error for the caller. A token whose sessions
// always fail is unavailable, while other keys still sign (hostile-inputs.md#failing-hardware-keys).
func TestLostSessions(t *testing.T) {
	open(t, uri(t, "odd", "p256", userPIN), 0) // keeps the library initialized and logged in
	t.Parallel()
	for name, code := range map[string]pkcs11.Error{
		"the handle is invalid": pkcs11.CKR_SESSION_HANDLE_INVALID, "the session was closed": pkcs11.CKR_SESSION_CLOSED,
		"the login was lost": pkcs11.CKR_USER_NOT_LOGGED_IN, "the device was removed": pkcs11.CKR_DEVICE_REMOVED,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls, broken atomic.Int32
			broken.Store(1)
			k := faultyKey(t, uri(t, "odd", "p256", userPIN), &faultyLibrary{sign: func(raw []byte, err error) ([]byte, error) {
				calls.Add(1)
				if broken.Add(-1) >= 0 {
					return nil, code
				}
				return raw, err
			}})
			if _, err := k.sign(t.Context(), 0, crypto.SHA256, make([]byte, 32)); err != nil || calls.Load() != 2 {
				t.Errorf("sign = %v after %d calls, want success after 2", err, calls.Load())
			}
			broken.Store(1 << 30)
			calls.Store(0)
			_, err := k.sign(t.Context(), 0, crypto.SHA256, make([]byte, 32))
			if !fault.Is(err, fault.Unavailable) || !errors.Is(err, code) || !strings.HasPrefix(err.Error(), "The signing key cannot be reached: ") {
				t.Errorf("sign with failing sessions = %v, want Unavailable", err)
			}
			if n := calls.Load(); n != 2 {
				t.Errorf("the token was called %d times for one signature, want twice", n)
			}
			if err := k.usable(); err == nil {
				t.Error("the key is usable")
			}
			other := &key{uri: k.uri, token: &token{uri: k.uri, mod: newModule(k.uri.Module, func(path string) cryptoki {
				return &wrapped{cryptoki: loadLibrary(path), slots: map[pkcs11.SessionHandle]uint{}}
			})}}
			if _, err := other.sign(t.Context(), 0, crypto.SHA256, make([]byte, 32)); err != nil {
				t.Errorf("sign with another key = %v", err)
			}
			broken.Store(0)
			if _, err := k.sign(t.Context(), time.Minute, crypto.SHA256, make([]byte, 32)); err != nil {
				t.Errorf("sign with working sessions = %v", err)
			}
		})
	}
}

// TestSignaturesOfWrongLength proves that an invalid signature of a token is rejected, whatever its length
// (hostile-inputs.md#failing-hardware-keys).
func TestSignaturesOfWrongLength(t *testing.T) {
	open(t, uri(t, "odd", "p256", userPIN), 0) // see TestLostSessions
	t.Parallel()
	for name, change := range map[string]func(raw []byte) []byte{
		"nothing":              func([]byte) []byte { return nil },
		"one byte":             func(raw []byte) []byte { return raw[:1] },
		"a byte too few":       func(raw []byte) []byte { return raw[:len(raw)-1] },
		"half":                 func(raw []byte) []byte { return raw[:len(raw)/2] },
		"a byte too many":      func(raw []byte) []byte { return append(raw, 0) },
		"twice":                func(raw []byte) []byte { return append(raw, raw...) },
		"a mebibyte":           func([]byte) []byte { return zeros(1 << 20) },
		"zeros":                func(raw []byte) []byte { return zeros(len(raw)) },
		"another bit":          func(raw []byte) []byte { raw[len(raw)-1] ^= 1; return raw },
		"the halves exchanged": func(raw []byte) []byte { return append(append([]byte{}, raw[len(raw)/2:]...), raw[:len(raw)/2]...) },
	} {
		for _, label := range []string{"p256", "rsa 2048"} {
			t.Run(name+" of "+label, func(t *testing.T) {
				t.Parallel()
				text := uri(t, "odd", label, userPIN)
				armored, err := NewPublicKey(t.Context(), text, "Release key <release@example.com>")
				if err != nil {
					t.Fatal(err)
				}
				public, err := signing.ParsePublicKey(armored)
				if err != nil {
					t.Fatal(err)
				}
				s, err := New(Options{URI: text, PublicKey: armored, Creator: "test"})
				if err != nil {
					t.Fatal(err)
				}
				s.key = faultyKey(t, text, &faultyLibrary{sign: func(raw []byte, err error) ([]byte, error) {
					if err != nil {
						return nil, err
					}
					return change(raw), nil
				}})
				made, err := signing.NewChecked(s, public).Sign(t.Context(), signtest.Request("localhost:5000/odd/app:1", "{}"))
				const want = "What the signing service returned does not verify with the service's key: The signature does not verify: it is not the key's."
				if e, ok := errors.AsType[*fault.Error](err); !ok || e.Kind != fault.Invalid || e.Msg != want || len(made.Raw) != 0 {
					t.Errorf("Sign = %d bytes, %v, want %q", len(made.Raw), err, want)
				}
			})
		}
	}
}

func zeros(n int) []byte { return make([]byte, n) }

// TestTokenWithoutPIN proves that the PIN is tried again when the token had no PIN yet
// (hostile-inputs.md#failing-hardware-keys).
func TestTokenWithoutPIN(t *testing.T) {
	open(t, uri(t, "odd", "p256", userPIN), 0) // see TestLostSessions
	t.Parallel()
	var missing atomic.Bool
	missing.Store(true)
	k := faultyKey(t, uri(t, "odd", "p256", userPIN), &faultyLibrary{
		sign: func(raw []byte, err error) ([]byte, error) { return raw, err },
		login: func() error {
			if missing.Load() {
				return pkcs11.Error(pkcs11.CKR_USER_PIN_NOT_INITIALIZED)
			}
			return nil
		},
	})
	if _, err := k.sign(t.Context(), 0, crypto.SHA256, make([]byte, 32)); !fault.Is(err, fault.Invalid) || !strings.HasPrefix(err.Error(), "The token has no user PIN yet: ") {
		t.Errorf("sign = %v, want the error for a missing PIN", err)
	}
	missing.Store(false)
	k.token.mu.Lock()
	k.token.next = time.Time{} // the next attempt is due
	k.token.mu.Unlock()
	if _, err := k.sign(t.Context(), 0, crypto.SHA256, make([]byte, 32)); err != nil {
		t.Errorf("sign after the PIN was set = %v", err)
	}
}

// TestRetriesDoNotAddLogins proves that the number of logins follows from the schedule of connections, however often a
// signature is retried: the token may count them (hostile-inputs.md#failing-hardware-keys).
func TestRetriesDoNotAddLogins(t *testing.T) {
	open(t, uri(t, "odd", "p256", userPIN), 0) // see TestLostSessions
	t.Parallel()
	var logins atomic.Int32
	k := faultyKey(t, uri(t, "odd", "p256", userPIN), &faultyLibrary{
		sign: func(raw []byte, err error) ([]byte, error) { return raw, err },
		login: func() error {
			logins.Add(1)
			return pkcs11.Error(pkcs11.CKR_DEVICE_ERROR)
		},
	})
	const wait = 2 * firstConnectPause // ends before the third attempt to connect, which is due after 3*firstConnectPause
	if _, err := k.sign(t.Context(), wait, crypto.SHA256, make([]byte, 32)); !fault.Is(err, fault.Unavailable) {
		t.Errorf("sign = %v, want Unavailable", err)
	}
	// Each attempt to connect logs in once, and once more after it has restarted the library.
	if n := logins.Load(); n < 1 || n > 4 {
		t.Errorf("the token got %d logins, want 4 at most", n)
	}
}
