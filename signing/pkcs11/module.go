//go:build cgo

package pkcs11

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/countersign/countersign/internal/fault"
)

// Bounds of the work with tokens.
const (
	maxSessions  = 8                // of a token at a time
	maxLost      = maxSessions      // calls that nobody waits for any more; with so many a token is asked nothing
	callLimit    = 30 * time.Second // for one call; a token that takes longer is stuck
	firstPause   = 250 * time.Millisecond
	longestPause = 10 * time.Second // between attempts to reach a token that is away
	restartPause = 10 * time.Second // between restarts of a library that other tokens are used through
	probeEvery   = 5 * time.Second  // an idle key is looked at so often
)

// cryptoki is what is called in a library.
type cryptoki interface { //nolint:interfacebloat // its methods are the standard's
	Initialize(...pkcs11.InitializeOption) error
	Finalize() error
	GetSlotList(tokenPresent bool) ([]uint, error)
	GetTokenInfo(slot uint) (pkcs11.TokenInfo, error)
	OpenSession(slot, flags uint) (pkcs11.SessionHandle, error)
	CloseSession(s pkcs11.SessionHandle) error
	Login(s pkcs11.SessionHandle, user uint, pin string) error
	FindObjectsInit(s pkcs11.SessionHandle, template []*pkcs11.Attribute) error
	FindObjects(s pkcs11.SessionHandle, limit int) ([]pkcs11.ObjectHandle, bool, error)
	FindObjectsFinal(s pkcs11.SessionHandle) error
	GetAttributeValue(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, a []*pkcs11.Attribute) ([]*pkcs11.Attribute, error)
	SignInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, o pkcs11.ObjectHandle) error
	Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error)
}

// awayError is a failure that may pass: the token is not there, does not answer, or has forgotten its sessions.
type awayError struct{ err error }

// Error returns the cause's text.
func (e awayError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e awayError) Unwrap() error { return e.err }

func isAway(err error) bool {
	_, ok := errors.AsType[awayError](err)
	return ok
}

var (
	errSlow    = awayError{errors.New("the token does not answer")}
	errLost    = awayError{errors.New("the token answers none of the calls that it was sent")}
	errDown    = awayError{errors.New("the library is not initialized")}
	errBusy    = awayError{errors.New("the library cannot be started anew while it is in use")}
	errDropped = awayError{errors.New("the token went away")}
)

// classify marks the failures that may pass. That it can be any of these when a token was pulled is what libraries do, not what the standard says.
func classify(err error) error {
	code, ok := errors.AsType[pkcs11.Error](err)
	if !ok {
		return err
	}
	switch code {
	case pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_HOST_MEMORY, pkcs11.CKR_SLOT_ID_INVALID,
		pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_FUNCTION_CANCELED,
		pkcs11.CKR_KEY_HANDLE_INVALID, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_OPERATION_NOT_INITIALIZED,
		pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_COUNT,
		pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED:
		return awayError{err}
	}
	return err
}

// module is a library. Calls go on side by side; a start waits until there are none, and holds new ones off. It is safe for concurrent use.
type module struct {
	path  string
	load  func(path string) cryptoki // nil when there is no such library
	limit time.Duration              // for one call

	mu         sync.Mutex
	lib        cryptoki // nil: not loaded yet
	up         bool     // initialized
	generation int      // of sessions: each start ends all
	started    time.Time
	starting   chan struct{} // closed at the end of the start that is under way; nil: there is none
	startErr   error         // of the last start
	active     int           // calls in the library
	conns      int           // that are in use in this generation
	logins     map[uint][sha256.Size]byte
	presenting map[string]*sync.Mutex       // by token: held while a PIN is presented
	refused    map[string][sha256.Size]byte // by token: the PIN that it refused last
}

func newModule(path string, load func(string) cryptoki) *module {
	return &module{path: path, load: load, limit: callLimit, logins: map[uint][sha256.Size]byte{}, presenting: map[string]*sync.Mutex{}, refused: map[string][sha256.Size]byte{}}
}

func loadLibrary(path string) cryptoki {
	if lib := pkcs11.New(path); lib != nil {
		return lib
	}
	return nil
}

// start initializes the library, anew where it is, unless somebody has since a generation. It does not do so while calls are in it, and not often while
// other tokens are used through it.
func (m *module) start(ctx context.Context, since int) error {
	m.mu.Lock()
	if m.starting == nil {
		switch {
		case m.up && m.generation != since:
			m.mu.Unlock()
			return nil
		case m.up && m.conns > 0 && time.Since(m.started) < restartPause:
			m.mu.Unlock()
			return errBusy
		}
		m.starting = make(chan struct{})
		go m.initialize()
	}
	c := m.starting
	m.mu.Unlock()
	select {
	case <-c:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.startErr
}

// initialize is the work of start. Nobody enters the library meanwhile.
func (m *module) initialize() {
	err := m.initializeQuiet()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.startErr = err
	close(m.starting)
	m.starting = nil
}

func (m *module) initializeQuiet() error {
	if !m.quiet(firstPause) {
		return errBusy
	}
	m.mu.Lock()
	lib, was := m.lib, m.up
	m.mu.Unlock()
	if lib == nil {
		if lib = m.load(m.path); lib == nil {
			return fault.Wrap(fault.Invalid, errors.New(m.path), "The PKCS #11 library cannot be loaded.")
		}
	}
	if was {
		_ = lib.Finalize() // a library whose token is gone may say anything
	}
	err := lib.Initialize()
	if errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		err = nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lib, m.up, m.started = lib, err == nil, time.Now()
	m.generation++
	m.conns = 0
	clear(m.logins)
	if err != nil {
		return awayError{err} // a library may need its device to start
	}
	return nil
}

// quiet waits until no call is in the library, for a while.
func (m *module) quiet(limit time.Duration) bool {
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		m.mu.Lock()
		active := m.active
		m.mu.Unlock()
		if active == 0 || time.Now().After(end) {
			return active == 0
		}
	}
}

func (m *module) now() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.generation
}

// visit is one call's stay in a library.
type visit struct{ over, lost bool }

// enter waits while the library starts. Each entry is followed by leave.
func (m *module) enter(ctx context.Context, t *token) (cryptoki, error) {
	for {
		m.mu.Lock()
		c := m.starting
		switch {
		case t.lost >= maxLost:
			m.mu.Unlock()
			return nil, errLost
		case c == nil && !m.up:
			m.mu.Unlock()
			return nil, errDown
		case c == nil:
			m.active++
			m.mu.Unlock()
			return m.lib, nil
		}
		m.mu.Unlock()
		select {
		case <-c:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (m *module) leave(t *token, v *visit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v.over = true
	m.active--
	if v.lost {
		t.lost--
	}
}

func (m *module) abandon(t *token, v *visit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !v.over {
		v.lost = true
		t.lost++
	}
}

// call does f in the library of a token. No call can be taken back: when the context or the time for a call ends it returns, and f goes
// on, so f touches nothing of the caller's. over is called when f has ended, or does not begin.
func call[T any](ctx context.Context, t *token, over func(), f func(cryptoki) (T, error)) (T, error) {
	var none T
	ctx, cancel := context.WithTimeoutCause(ctx, t.mod.limit, errSlow)
	defer cancel()
	lib, err := t.mod.enter(ctx, t)
	if err != nil {
		over()
		return none, err
	}
	type result struct {
		value T
		err   error
	}
	done, v := make(chan result, 1), &visit{}
	go func() {
		value, err := f(lib)
		t.mod.leave(t, v)
		over()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, classify(r.err)
	case <-ctx.Done():
		t.mod.abandon(t, v)
		return none, context.Cause(ctx)
	}
}
