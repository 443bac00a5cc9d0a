//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/countersign/countersign/internal/fault"
)

// token is one token with one login. It is safe for concurrent use.
type token struct {
	uri       URI
	mod       *module
	abandoned int // calls; mod.mu guards it

	mu         sync.Mutex
	conn       *conn         // nil while the token is unavailable
	connecting chan struct{} // closed when the current attempt to connect ends; nil when none runs
	err        error         // of the last attempt
	failures   int           // consecutive
	next       time.Time     // earliest time of the next attempt
}

// conn is a set of sessions with a token.
type conn struct {
	slot       uint
	generation int           // of the library
	places     chan struct{} // holds one element for each session in use
	dead       chan struct{} // closed when the sessions have ended

	mu      sync.Mutex
	idle    []pkcs11.SessionHandle
	objects map[string]*object // by the key's name
}

// connection returns the sessions with the token and connects first when there are none. After a failed attempt it
// returns the same error until the next attempt is due.
func (t *token) connection(ctx context.Context) (*conn, error) {
	t.mu.Lock()
	if t.conn != nil && t.conn.generation != t.mod.currentGeneration() {
		t.forget(errSessionsLost)
	}
	switch {
	case t.conn != nil:
		defer t.mu.Unlock()
		return t.conn, nil
	case t.connecting == nil && t.err != nil && time.Now().Before(t.next):
		defer t.mu.Unlock()
		return nil, t.err
	case t.connecting == nil:
		t.connecting = make(chan struct{})
		go t.connect(context.WithoutCancel(ctx))
	}
	c := t.connecting
	t.mu.Unlock()
	select {
	case <-c:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conn == nil {
		return nil, t.err
	}
	return t.conn, nil
}

// forget removes the sessions. The caller holds the lock.
func (t *token) forget(cause error) {
	close(t.conn.dead)
	t.conn, t.err, t.next, t.failures = nil, cause, time.Now(), 0
}

// drop removes the sessions c after a failure, unless they were removed before, and closes the idle ones. Sessions
// with a token that does not answer are not closed.
func (t *token) drop(ctx context.Context, c *conn, cause error) {
	t.mu.Lock()
	current := t.conn == c
	if current {
		t.forget(cause)
	}
	t.mu.Unlock()
	if !current {
		return
	}
	t.mod.mu.Lock()
	if t.mod.generation == c.generation {
		t.mod.conns--
	}
	t.mod.mu.Unlock()
	if errors.Is(cause, errTimeout) {
		return
	}
	go c.close(context.WithoutCancel(ctx), t)
}

// close closes the idle sessions. Sessions in use are closed after their use.
func (c *conn) close(ctx context.Context, t *token) {
	_, _ = call(ctx, t, func() {}, func(lib cryptoki) (struct{}, error) {
		c.mu.Lock()
		idle := c.idle
		c.idle = nil
		c.mu.Unlock()
		for _, s := range idle {
			if t.mod.currentGeneration() == c.generation {
				_ = lib.CloseSession(s)
			}
		}
		return struct{}{}, nil
	})
}

// connect runs one attempt to connect. After a failure it doubles the pause before the next attempt.
func (t *token) connect(ctx context.Context) {
	c, err := t.reach(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conn, t.err = c, err
	if err == nil {
		t.failures = 0
	} else {
		t.next = time.Now().Add(min(firstConnectPause<<min(t.failures, 16), maxConnectPause))
		t.failures++
	}
	close(t.connecting)
	t.connecting = nil
}

// reach opens a session and logs in. When the token is not found it restarts the library and tries once more: some
// libraries look for tokens only at their start.
func (t *token) reach(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*t.mod.callTimeout, errTimeout)
	defer cancel()
	var pin secret
	if t.uri.PINFile != "" {
		var err error
		if pin, err = readPIN(t.uri.PINFile); err != nil {
			return nil, err
		}
	}
	generation := t.mod.currentGeneration()
	c, err := t.open(ctx, pin)
	if err == nil || !isUnavailable(err) || errors.Is(err, errTimeout) || errors.Is(err, errStuck) {
		return c, err
	}
	if startErr := t.mod.start(ctx, generation); startErr != nil {
		if errors.Is(startErr, errBusy) {
			startErr = err
		}
		return nil, startErr
	}
	return t.open(ctx, pin)
}

// open opens the first session and logs in when the URI names a PIN file.
func (t *token) open(ctx context.Context, pin secret) (*conn, error) {
	return call(ctx, t, func() {}, func(lib cryptoki) (*conn, error) {
		generation := t.mod.currentGeneration()
		slot, info, err := t.find(lib)
		if err != nil {
			return nil, err
		}
		s, err := lib.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
		if err != nil {
			return nil, err
		}
		if t.uri.PINFile != "" {
			if err := t.login(lib, s, slot, pin); err != nil {
				_ = lib.CloseSession(s)
				return nil, err
			}
		}
		size := uint(maxSessions)
		if n := info.MaxSessionCount; n > pkcs11.CK_EFFECTIVELY_INFINITE && n < size {
			size = n
		}
		t.mod.mu.Lock()
		t.mod.conns++
		t.mod.mu.Unlock()
		return &conn{
			slot: slot, generation: generation, places: make(chan struct{}, size), dead: make(chan struct{}),
			idle: []pkcs11.SessionHandle{s}, objects: map[string]*object{},
		}, nil
	})
}

// find returns the slot of the one token that the URI matches.
func (t *token) find(lib cryptoki) (uint, pkcs11.TokenInfo, error) {
	slots, err := lib.GetSlotList(true)
	if err != nil {
		return 0, pkcs11.TokenInfo{}, err
	}
	var found []uint
	var info pkcs11.TokenInfo
	for _, slot := range slots {
		if t.uri.Slot != nil && *t.uri.Slot != slot {
			continue
		}
		if i, err := lib.GetTokenInfo(slot); err == nil && t.uri.matches(i) {
			found, info = append(found, slot), i
		}
	}
	switch len(found) {
	case 0:
		return 0, info, fault.NewOutage(fault.SigningKey, errors.New(t.uri.tokenName()), "The token is not there.")
	case 1:
		return found[0], info, nil
	}
	return 0, info, fault.New(fault.Invalid, "The PKCS #11 URI matches %d tokens. Add the serial of one.", len(found))
}

func (u URI) matches(i pkcs11.TokenInfo) bool {
	for _, p := range [][2]string{
		{u.Token, i.Label}, {u.Manufacturer, i.ManufacturerID}, {u.Model, i.Model}, {u.Serial, i.SerialNumber},
	} {
		if p[0] != "" && p[0] != p[1] {
			return false
		}
	}
	return i.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0
}

// loginLock returns the lock for logins to a token and its id. Several URIs may name one token: each login must know the
// result of the one before.
func (m *module) loginLock(info pkcs11.TokenInfo) (*sync.Mutex, string) {
	id := info.ManufacturerID + "\x00" + info.SerialNumber + "\x00" + info.Label
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.loginLocks[id] == nil {
		m.loginLocks[id] = &sync.Mutex{}
	}
	return m.loginLocks[id], id
}

// login logs in with a PIN unless that could lock the token. It fails without an attempt when the token has refused the
// same PIN, and when the token reports that one more wrong PIN locks it. So a wrong PIN costs one attempt for each
// process, and a process that restarts repeatedly does not lock a token that reports its last attempt.
func (t *token) login(lib cryptoki, s pkcs11.SessionHandle, slot uint, pin secret) error {
	m := t.mod
	info, err := lib.GetTokenInfo(slot)
	if err != nil {
		return err
	}
	lock, id := m.loginLock(info)
	lock.Lock()
	defer lock.Unlock()
	if info, err = lib.GetTokenInfo(slot); err != nil {
		return err
	}
	if err := m.checkPIN(info, id, pin); err != nil {
		return err
	}
	err = lib.Login(s, pkcs11.CKU_USER, string(pin))
	code, _ := errors.AsType[pkcs11.Error](err)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch code {
	case pkcs11.CKR_USER_ALREADY_LOGGED_IN: // through another URI of the token; the PIN was not checked
		if sum, ok := m.loggedIn[slot]; ok && sum != pin.sum() {
			return fault.New(fault.Invalid, "Another signing service uses the token with another PIN.")
		}
		return nil
	case pkcs11.CKR_USER_PIN_NOT_INITIALIZED: // the PIN was not checked, and may be the one that will be set
		return fault.Wrap(fault.Invalid, err, "The token has no user PIN yet.")
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_LOCKED:
		m.refusedPINs[id] = pin.sum()
		return fault.Wrap(fault.Invalid, err, "The token refuses the PIN.")
	}
	if err == nil {
		m.loggedIn[slot] = pin.sum()
		delete(m.refusedPINs, id)
	}
	return err
}

// checkPIN reports why the token may not be asked to check a PIN.
func (m *module) checkPIN(info pkcs11.TokenInfo, id string, pin secret) error {
	m.mu.Lock()
	refused, ok := m.refusedPINs[id]
	m.mu.Unlock()
	switch {
	case ok && refused == pin.sum():
		return fault.New(fault.Invalid, "The token has refused the PIN; it is not tried again before the PIN file is changed.")
	case info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return fault.New(fault.Invalid, "The token's PIN is locked.")
	case info.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return fault.New(fault.Invalid, "The next wrong PIN would lock the token, so the PIN is not tried. Log in once with the token's own tools.")
	}
	return nil
}

// withSession calls f with a session that no other call uses, after waiting for a free one. It drops the connection when
// f fails because the token is unavailable.
func withSession[T any](ctx context.Context, t *token, c *conn, f func(cryptoki, pkcs11.SessionHandle) (T, error)) (T, error) {
	var zero T
	select {
	case c.places <- struct{}{}:
	case <-c.dead:
		return zero, errSessionsLost
	case <-ctx.Done():
		return zero, context.Cause(ctx)
	}
	release := func() { <-c.places }
	value, err := call(ctx, t, release, func(lib cryptoki) (T, error) {
		if t.mod.currentGeneration() != c.generation {
			return zero, errSessionsLost // the handle may belong to a new session
		}
		s, err := c.take(lib)
		if err != nil {
			return zero, fmt.Errorf("open session: %w", err)
		}
		value, err := f(lib, s)
		if err != nil || !c.put(s) {
			_ = lib.CloseSession(s)
		}
		return value, err
	})
	if isUnavailable(err) && !errors.Is(err, errStuck) && ctx.Err() == nil {
		t.drop(ctx, c, err)
	}
	return value, err
}

// put makes a session idle, and reports whether the connection still exists.
func (c *conn) put(s pkcs11.SessionHandle) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.dead:
		return false
	default:
	}
	c.idle = append(c.idle, s)
	return true
}

// take returns an idle session, or opens one.
func (c *conn) take(lib cryptoki) (pkcs11.SessionHandle, error) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		defer c.mu.Unlock()
		s := c.idle[n-1]
		c.idle = c.idle[:n-1]
		return s, nil
	}
	c.mu.Unlock()
	return lib.OpenSession(c.slot, pkcs11.CKF_SERIAL_SESSION)
}
