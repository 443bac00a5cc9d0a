//go:build cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
)

// TestTokenRemovedAndInserted is not parallel: it restarts the library, which the tests with a wrapped library do not
// expect (hostile-inputs.md#failing-hardware-keys).
func TestTokenRemovedAndInserted(t *testing.T) {
	s, public := open(t, uri(t, "gone", "key", userPIN), time.Minute)
	checked := signing.NewChecked(s, public)
	r := signtest.Request("localhost:5000/gone/app:1", "{}")
	if _, err := checked.Sign(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	dir := tokenDir(t, "gone")
	aside := filepath.Join(filepath.Dir(softHSM.dir), "aside")
	rename(t, dir, aside)
	noWait := *signing.NewChecked(&Signer{key: s.key, entity: s.entity, o: Options{Creator: "test"}}, public)
	if _, err := noWait.Sign(t.Context(), r); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Sign without the token = %v, want Unavailable", err)
	}
	if err := s.Usable(); err == nil {
		t.Error("Usable reports no error without the token")
	}
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error, 2)
	go func() { _, err := checked.Sign(ctx, r); waiting <- err }()
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("canceled Sign = %v", err)
	}
	for range 2 {
		go func() { _, err := checked.Sign(t.Context(), r); waiting <- err }()
	}
	select {
	case err := <-waiting:
		t.Errorf("Sign did not wait for the token: %v", err)
	case <-time.After(time.Second):
	}
	rename(t, aside, dir)
	for range 2 {
		if err := <-waiting; err != nil {
			t.Errorf("Sign after the token was inserted = %v", err)
		}
	}
	if err := s.Usable(); err != nil {
		t.Errorf("Usable with the token = %v", err)
	}
}

// tokenDir returns SoftHSM's directory of the token with a label.
func tokenDir(t *testing.T, label string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(softHSM.dir, "*", "token.object"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, []byte(fmt.Sprintf("%-32s", label))) {
			return filepath.Dir(f)
		}
	}
	t.Fatalf("no directory of token %s", label)
	return ""
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// wrapped is SoftHSM with hooks before some calls.
type wrapped struct {
	cryptoki
	logins func()     // runs before each login
	sign   func(uint) // runs before each signature, with the slot
	flags  uint       // added to the flags of the token
	mu     sync.Mutex
	slots  map[pkcs11.SessionHandle]uint
}

func (w *wrapped) GetTokenInfo(slot uint) (i pkcs11.TokenInfo, err error) {
	if w.cryptoki != nil {
		i, err = w.cryptoki.GetTokenInfo(slot)
	}
	i.Flags |= w.flags
	return i, err
}

func (w *wrapped) Login(s pkcs11.SessionHandle, user uint, pin string) error {
	if w.logins != nil {
		w.logins()
	}
	return w.cryptoki.Login(s, user, pin)
}

func (w *wrapped) OpenSession(slot, flags uint) (pkcs11.SessionHandle, error) {
	s, err := w.cryptoki.OpenSession(slot, flags)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slots[s] = slot
	return s, err
}

func (w *wrapped) Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error) {
	w.mu.Lock()
	slot := w.slots[s]
	w.mu.Unlock()
	if w.sign != nil {
		w.sign(slot)
	}
	return w.cryptoki.Sign(s, message)
}

// Initialize accepts that the process has already initialized the library.
func (w *wrapped) Initialize(...pkcs11.InitializeOption) error {
	if err := w.cryptoki.Initialize(); err != nil && !errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return err
	}
	return nil
}

// Finalize does nothing, since other tests use the library.
func (w *wrapped) Finalize() error { return nil }

// wrap returns a key in SoftHSM behind w. It has its own login, sessions and module state.
func wrap(t *testing.T, text string, w *wrapped) *key {
	t.Helper()
	u, err := ParseURI(text)
	if err != nil {
		t.Fatal(err)
	}
	w.slots = map[pkcs11.SessionHandle]uint{}
	m := newModule(u.Module, func(path string) cryptoki {
		w.cryptoki = loadLibrary(path)
		return w
	})
	return &key{uri: u, token: &token{uri: u, mod: m}}
}

// TestWrongPINIsTriedOnce proves that a wrong PIN does not lock the token (hostile-inputs.md#failing-hardware-keys).
func TestWrongPINIsTriedOnce(t *testing.T) {
	t.Parallel()
	text := uri(t, "pin", "key", wrongPIN)
	var tries atomic.Int32
	k := wrap(t, text, &wrapped{logins: func() { tries.Add(1) }})
	for i := range 10 {
		if _, err := k.sign(t.Context(), time.Minute, crypto.SHA256, make([]byte, 32)); !fault.Is(err, fault.Invalid) {
			t.Fatalf("sign %d with a wrong PIN = %v, want Invalid", i, err)
		}
		k.token.mu.Lock()
		k.token.next = time.Time{} // the next attempt is due
		k.token.mu.Unlock()
	}
	if err := k.usable(); err == nil {
		t.Error("usable reports no error with a wrong PIN")
	}
	if got := tries.Load(); got != 1 {
		t.Errorf("the token checked a wrong PIN %d times, want once", got)
	}
	writePIN(t, k.uri.PINFile, userPIN)
	k.token.mu.Lock()
	k.token.next = time.Time{}
	k.token.mu.Unlock()
	if _, err := k.sign(t.Context(), 0, crypto.SHA256, make([]byte, 32)); err != nil {
		t.Errorf("sign with the corrected PIN = %v", err)
	}
	if got := tries.Load(); got != 2 {
		t.Errorf("the token checked a PIN %d times, want twice", got)
	}
}

// TestLastPINAttemptIsNotUsed proves that a PIN that was wrong in other processes does not lock the token either
// (hostile-inputs.md#failing-hardware-keys).
func TestLastPINAttemptIsNotUsed(t *testing.T) {
	t.Parallel()
	for _, flag := range []uint{pkcs11.CKF_USER_PIN_FINAL_TRY, pkcs11.CKF_USER_PIN_LOCKED} {
		w := &wrapped{logins: func() { t.Error("the token checked a PIN") }, flags: flag}
		k := wrap(t, uri(t, "pin", "key", userPIN), w)
		err := k.token.login(w, 0, 0, userPIN)
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("login with flag %x = %v, want Invalid", flag, err)
		}
	}
}

// TestStuckToken proves that a token that does not answer delays neither its callers nor other tokens
// (hostile-inputs.md#failing-hardware-keys).
func TestStuckToken(t *testing.T) {
	t.Parallel()
	stuck, release := make(chan struct{}), make(chan struct{})
	var slot atomic.Uint64
	w := &wrapped{sign: func(s uint) {
		if uint64(s) == slot.Load() {
			select {
			case stuck <- struct{}{}:
			default:
			}
			<-release
		}
	}}
	k := wrap(t, uri(t, "stuck", "key", userPIN), w)
	other := &key{uri: k.uri, token: &token{mod: k.token.mod}}
	other.uri.Token, other.uri.Object, other.token.uri = "main", "p256", other.uri
	other.token.uri.Token = "main"
	c, err := k.token.connection(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slot.Store(uint64(c.slot))
	k.token.mod.callTimeout = 500 * time.Millisecond

	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := k.sign(ctx, time.Hour, crypto.SHA256, make([]byte, 32))
		failed <- err
	}()
	<-stuck
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("canceled sign = %v", err)
	}
	for i := range 2 * maxAbandoned {
		if _, err := k.sign(t.Context(), 0, crypto.SHA256, make([]byte, 32)); !fault.Is(err, fault.Unavailable) {
			t.Errorf("sign %d with the stuck token = %v, want Unavailable", i, err)
		}
		if _, err := other.sign(t.Context(), time.Minute, crypto.SHA256, make([]byte, 32)); err != nil {
			t.Errorf("sign %d with the other token = %v", i, err)
		}
	}
	k.token.mod.mu.Lock()
	abandoned, active := k.token.abandoned, k.token.mod.active
	k.token.mod.mu.Unlock()
	if abandoned > maxAbandoned || active > maxAbandoned {
		t.Errorf("%d calls are abandoned and %d run, want %d at most", abandoned, active, maxAbandoned)
	}
	if err := k.usable(); err == nil {
		t.Error("usable reports no error with a stuck token")
	}
	close(release)
	if _, err := k.sign(t.Context(), time.Minute, crypto.SHA256, make([]byte, 32)); err != nil {
		t.Errorf("sign after the token answered = %v", err)
	}
}
