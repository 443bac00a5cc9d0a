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

// Limits of the work with tokens.
const (
	maxSessions       = 8                // concurrent sessions of one token
	maxAbandoned      = maxSessions      // abandoned calls of one token; with so many, no further call is made
	callTimeout       = 30 * time.Second // of one call; a token that needs longer is regarded as stuck
	idleTimeout       = 250 * time.Millisecond
	firstConnectPause = 250 * time.Millisecond // after the first failed connection
	maxConnectPause   = 10 * time.Second       // after later ones
	restartInterval   = 10 * time.Second       // between restarts of a library while other tokens use it
	probeInterval     = 5 * time.Second        // between checks of an idle key
	failedInterval    = time.Second            // between checks of a key that was unavailable
)

// cryptoki is the part of a PKCS #11 library that this package calls.
type cryptoki interface { //nolint:interfacebloat // the standard defines the methods
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

// Outages of the token: it may answer again, so the call may be retried.
var (
	errTimeout        = fault.NewOutage(fault.SigningKey, nil, "The token does not answer.")
	errStuck          = fault.NewOutage(fault.SigningKey, nil, "The token has not answered several calls; it is not called again before it does.")
	errNotInitialized = fault.NewOutage(fault.SigningKey, nil, "The PKCS #11 library is not initialized.")
	errBusy           = fault.NewOutage(fault.SigningKey, nil, "The PKCS #11 library cannot be restarted while it is in use.")
	errSessionsLost   = fault.NewOutage(fault.SigningKey, nil, "The sessions with the token have ended.")
)

func isUnavailable(err error) bool { return fault.IsOutage(err, fault.SigningKey) }

// classify turns the errors of a library that a retry may cure into outages. The standard does not define
// which error follows the removal of a token; libraries return any of these.
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
		return fault.NewOutage(fault.SigningKey, err, "The token failed (%s).", code)
	}
	return err
}

// module is a PKCS #11 library. Calls run concurrently. A start waits until no call runs, and delays new calls until it
// ends. It is safe for concurrent use.
type module struct {
	path        string
	load        func(path string) cryptoki // returns nil when the library cannot be loaded
	callTimeout time.Duration

	mu          sync.Mutex
	lib         cryptoki // nil before it is loaded
	initialized bool
	generation  int // number of starts; each start ends all sessions
	started     time.Time
	starting    chan struct{}                // closed when the current start ends; nil when none runs
	startErr    error                        // of the last start
	active      int                          // calls that run in the library
	conns       int                          // connections of this generation
	loggedIn    map[uint][sha256.Size]byte   // sum of the accepted PIN, by slot
	loginLocks  map[string]*sync.Mutex       // by token; held during a login
	refusedPINs map[string][sha256.Size]byte // sum of the last refused PIN, by token
}

func newModule(path string, load func(string) cryptoki) *module {
	return &module{
		path: path, load: load, callTimeout: callTimeout,
		loggedIn: map[uint][sha256.Size]byte{}, loginLocks: map[string]*sync.Mutex{}, refusedPINs: map[string][sha256.Size]byte{},
	}
}

func loadLibrary(path string) cryptoki {
	if lib := pkcs11.New(path); lib != nil {
		return lib
	}
	return nil
}

// start initializes the library, or restarts it. It returns at once when the library was restarted after the generation
// since. It fails with errBusy while calls run, and within restartInterval of the last start while connections exist.
func (m *module) start(ctx context.Context, since int) error {
	m.mu.Lock()
	if m.starting == nil {
		switch {
		case m.initialized && m.generation != since:
			m.mu.Unlock()
			return nil
		case m.initialized && m.conns > 0 && time.Since(m.started) < restartInterval:
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

// initialize runs a start. No call enters the library meanwhile.
func (m *module) initialize() {
	err := m.initializeIdle()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.startErr = err
	close(m.starting)
	m.starting = nil
}

func (m *module) initializeIdle() error {
	if !m.waitIdle(idleTimeout) {
		return errBusy
	}
	m.mu.Lock()
	lib, restart := m.lib, m.initialized
	m.mu.Unlock()
	if lib == nil {
		if lib = m.load(m.path); lib == nil {
			return fault.Wrap(fault.Invalid, errors.New(m.path), "The PKCS #11 library cannot be loaded.")
		}
	}
	if restart {
		_ = lib.Finalize() // it may fail when the token was removed
	}
	err := lib.Initialize()
	if errors.Is(err, pkcs11.Error(pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		err = nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lib, m.initialized, m.started = lib, err == nil, time.Now()
	m.generation++
	m.conns = 0
	clear(m.loggedIn)
	if err != nil { // some libraries need their device for this
		return fault.NewOutage(fault.SigningKey, err, "The PKCS #11 library cannot be initialized.")
	}
	return nil
}

// waitIdle waits until no call runs in the library, and reports whether that is so.
func (m *module) waitIdle(timeout time.Duration) bool {
	for end := time.Now().Add(timeout); ; time.Sleep(time.Millisecond) {
		m.mu.Lock()
		active := m.active
		m.mu.Unlock()
		if active == 0 || time.Now().After(end) {
			return active == 0
		}
	}
}

func (m *module) currentGeneration() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.generation
}

// pendingCall is the state of one call; module.mu guards it.
type pendingCall struct{ ended, abandoned bool }

// enter counts a call, after waiting for a start to end. The caller calls leave unless enter fails.
func (m *module) enter(ctx context.Context, t *token) (cryptoki, error) {
	for {
		m.mu.Lock()
		c := m.starting
		switch {
		case t.abandoned >= maxAbandoned:
			m.mu.Unlock()
			return nil, errStuck
		case c == nil && !m.initialized:
			m.mu.Unlock()
			return nil, errNotInitialized
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

func (m *module) leave(t *token, p *pendingCall) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p.ended = true
	m.active--
	if p.abandoned {
		t.abandoned--
	}
}

func (m *module) abandon(t *token, p *pendingCall) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !p.ended {
		p.abandoned = true
		t.abandoned++
	}
}

// call calls f with the library of a token and returns its result. A PKCS #11 call cannot be interrupted. When ctx ends,
// or callTimeout passes, call returns early and abandons f, which continues in its goroutine; so f must not use memory
// of the caller. finally runs once: when f has ended, or when it is not called.
func call[T any](ctx context.Context, t *token, finally func(), f func(cryptoki) (T, error)) (T, error) {
	var zero T
	ctx, cancel := context.WithTimeoutCause(ctx, t.mod.callTimeout, errTimeout)
	defer cancel()
	lib, err := t.mod.enter(ctx, t)
	if err != nil {
		finally()
		return zero, err
	}
	type result struct {
		value T
		err   error
	}
	done, pending := make(chan result, 1), &pendingCall{}
	go func() {
		value, err := f(lib)
		t.mod.leave(t, pending)
		finally()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, classify(r.err)
	case <-ctx.Done():
		t.mod.abandon(t, pending)
		return zero, context.Cause(ctx)
	}
}
