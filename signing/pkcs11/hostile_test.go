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

// odd is SoftHSM whose signatures are what a test makes of them.
type odd struct {
	*wrapped
	say   func(raw []byte, err error) ([]byte, error)
	login func() error // before each login; nil: nothing
}

func (o *odd) Login(s pkcs11.SessionHandle, user uint, pin string) error {
	if o.login != nil {
		if err := o.login(); err != nil {
			return err
		}
	}
	return o.wrapped.Login(s, user, pin)
}

func (o *odd) Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error) {
	return o.say(o.wrapped.Sign(s, message))
}

// oddKey returns a key in SoftHSM behind o, which has sessions of its own.
func oddKey(t *testing.T, text string, o *odd) *key {
	t.Helper()
	u, err := ParseURI(text)
	if err != nil {
		t.Fatal(err)
	}
	o.wrapped = &wrapped{slots: map[pkcs11.SessionHandle]uint{}}
	m := newModule(u.Module, func(path string) cryptoki {
		o.cryptoki = loadLibrary(path)
		return o
	})
	return &key{uri: u, token: &token{uri: u, mod: m}}
}

// TestSessionsThatTheTokenForgets: a session that has become invalid is opened anew, and the caller sees nothing of it; a token whose sessions never
// hold is away, and other keys sign on.
//
// Hostile input 40.
func TestSessionsThatTheTokenForgets(t *testing.T) {
	open(t, uri(t, "odd", "p256", userPIN), 0) // the library is up before others use it, and the login stays
	t.Parallel()
	for name, code := range map[string]pkcs11.Error{
		"the handle is invalid": pkcs11.CKR_SESSION_HANDLE_INVALID, "the session was closed": pkcs11.CKR_SESSION_CLOSED,
		"the login is forgotten": pkcs11.CKR_USER_NOT_LOGGED_IN, "the device was removed": pkcs11.CKR_DEVICE_REMOVED,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls, broken atomic.Int32
			broken.Store(1)
			k := oddKey(t, uri(t, "odd", "p256", userPIN), &odd{say: func(raw []byte, err error) ([]byte, error) {
				calls.Add(1)
				if broken.Add(-1) >= 0 {
					return nil, code
				}
				return raw, err
			}})
			if _, err := k.sign(t.Context(), 0, crypto.SHA256, make([]byte, 32)); err != nil || calls.Load() != 2 {
				t.Errorf("sign = %v after %d calls, want the second to do", err, calls.Load())
			}
			broken.Store(1 << 30)
			calls.Store(0)
			_, err := k.sign(t.Context(), 0, crypto.SHA256, make([]byte, 32))
			if !fault.Is(err, fault.Unavailable) || !errors.Is(err, code) || !strings.HasPrefix(err.Error(), "The signing key cannot be reached: ") {
				t.Errorf("sign without sessions = %v, want Unavailable", err)
			}
			if n := calls.Load(); n != 2 {
				t.Errorf("the token was asked %d times for one signature, want twice", n)
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
				t.Errorf("sign with sessions that hold = %v", err)
			}
		})
	}
}

// TestSignaturesOfAWrongLength: what a token returns is never let out unless it verifies, however long it is.
//
// Hostile input 40.
func TestSignaturesOfAWrongLength(t *testing.T) {
	open(t, uri(t, "odd", "p256", userPIN), 0) // as above
	t.Parallel()
	for name, turn := range map[string]func(raw []byte) []byte{
		"nothing":              func([]byte) []byte { return nil },
		"one byte":             func(raw []byte) []byte { return raw[:1] },
		"a byte too few":       func(raw []byte) []byte { return raw[:len(raw)-1] },
		"half":                 func(raw []byte) []byte { return raw[:len(raw)/2] },
		"a byte too many":      func(raw []byte) []byte { return append(raw, 0) },
		"twice":                func(raw []byte) []byte { return append(raw, raw...) },
		"a mebibyte":           func([]byte) []byte { return zeros(1 << 20) },
		"nothing but zeros":    func(raw []byte) []byte { return zeros(len(raw)) },
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
				s.key = oddKey(t, text, &odd{say: func(raw []byte, err error) ([]byte, error) {
					if err != nil {
						return nil, err
					}
					return turn(raw), nil
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

// TestATokenWithoutAPIN: until somebody has set the token's PIN nothing was wrong with the one in the file, and it is tried again.
//
// Hostile input 40.
func TestATokenWithoutAPIN(t *testing.T) {
	open(t, uri(t, "odd", "p256", userPIN), 0) // as above
	t.Parallel()
	var missing atomic.Bool
	missing.Store(true)
	k := oddKey(t, uri(t, "odd", "p256", userPIN), &odd{
		say: func(raw []byte, err error) ([]byte, error) { return raw, err },
		login: func() error {
			if missing.Load() {
				return pkcs11.Error(pkcs11.CKR_USER_PIN_NOT_INITIALIZED)
			}
			return nil
		},
	})
	if _, err := k.sign(t.Context(), 0, crypto.SHA256, make([]byte, 32)); !fault.Is(err, fault.Invalid) || !strings.HasPrefix(err.Error(), "The token has no user PIN yet: ") {
		t.Errorf("sign = %v, want that there is no PIN", err)
	}
	missing.Store(false)
	k.token.mu.Lock()
	k.token.next = time.Time{} // as if time had passed
	k.token.mu.Unlock()
	if _, err := k.sign(t.Context(), 0, crypto.SHA256, make([]byte, 32)); err != nil {
		t.Errorf("sign once the PIN is set = %v", err)
	}
}
