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
	uri  URI
	mod  *module
	lost int // calls that nobody waits for; mod.mu guards it

	mu         sync.Mutex
	conn       *conn         // nil: away
	connecting chan struct{} // closed at the end of the attempt that is under way; nil: there is none
	err        error         // of the last attempt
	failures   int           // in a row
	next       time.Time     // no attempt before
}

// conn is the sessions with a token since it was reached.
type conn struct {
	slot       uint
	generation int
	places     chan struct{} // holds one for each session that is in use
	dead       chan struct{} // closed when the token went away

	mu      sync.Mutex
	idle    []pkcs11.SessionHandle
	objects map[string]*object
}

// connection returns the sessions, and reaches for the token where there are none. It fails at once when that was tried a short time ago.
func (t *token) connection(ctx context.Context) (*conn, error) {
	t.mu.Lock()
	if t.conn != nil && t.conn.generation != t.mod.now() {
		t.forget(errDropped)
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

// forget makes the sessions unknown. The caller holds the lock.
func (t *token) forget(why error) {
	close(t.conn.dead)
	t.conn, t.err, t.next, t.failures = nil, why, time.Now(), 0
}

// drop makes sessions unknown after a failure, once, and closes those that may still be open.
func (t *token) drop(ctx context.Context, c *conn, why error) {
	t.mu.Lock()
	current := t.conn == c
	if current {
		t.forget(why)
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
	if errors.Is(why, errSlow) {
		return
	}
	go c.close(context.WithoutCancel(ctx), t)
}

// close closes the sessions that are not in use; those that are follow.
func (c *conn) close(ctx context.Context, t *token) {
	_, _ = call(ctx, t, func() {}, func(lib cryptoki) (struct{}, error) {
		c.mu.Lock()
		idle := c.idle
		c.idle = nil
		c.mu.Unlock()
		for _, s := range idle {
			if t.mod.now() == c.generation {
				_ = lib.CloseSession(s)
			}
		}
		return struct{}{}, nil
	})
}

func (t *token) connect(ctx context.Context) {
	c, err := t.reach(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conn, t.err = c, err
	if err == nil {
		t.failures = 0
	} else {
		t.next = time.Now().Add(min(firstPause<<min(t.failures, 16), longestPause))
		t.failures++
	}
	close(t.connecting)
	t.connecting = nil
}

// reach opens a session and logs in. Where the token is not found the library is started anew: some look for tokens only then.
func (t *token) reach(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*t.mod.limit, errSlow)
	defer cancel()
	var pin secret
	if t.uri.PINFile != "" {
		var err error
		if pin, err = readPIN(t.uri.PINFile); err != nil {
			return nil, err
		}
	}
	generation := t.mod.now()
	c, err := t.login(ctx, pin)
	if err == nil || !isAway(err) || errors.Is(err, errSlow) || errors.Is(err, errLost) {
		return c, err
	}
	if startErr := t.mod.start(ctx, generation); startErr != nil {
		if errors.Is(startErr, errBusy) {
			startErr = err
		}
		return nil, startErr
	}
	return t.login(ctx, pin)
}

// login opens the first session. It asks the token to check a PIN only where that cannot lock it.
func (t *token) login(ctx context.Context, pin secret) (*conn, error) {
	return call(ctx, t, func() {}, func(lib cryptoki) (*conn, error) {
		generation := t.mod.now()
		slot, info, err := t.find(lib)
		if err != nil {
			return nil, err
		}
		s, err := lib.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
		if err != nil {
			return nil, err
		}
		if t.uri.PINFile != "" {
			if err := t.present(lib, s, slot, pin); err != nil {
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

// find returns the slot with the one token that the URI is about.
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
		return 0, info, awayError{fault.Wrap(fault.Invalid, errors.New(t.uri.tokenName()), "The token is not there.")}
	case 1:
		return found[0], info, nil
	}
	return 0, info, fault.New(fault.Invalid, "The PKCS #11 URI is about %d tokens: say its serial.", len(found))
}

func (u URI) matches(i pkcs11.TokenInfo) bool {
	for _, p := range [][2]string{{u.Token, i.Label}, {u.Manufacturer, i.ManufacturerID}, {u.Model, i.Model}, {u.Serial, i.SerialNumber}} {
		if p[0] != "" && p[0] != p[1] {
			return false
		}
	}
	return i.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0
}

// present logs in. A PIN that the token has refused is not tried again before the file holds another, and none is tried when the token says that one
// more wrong PIN locks it. So a wrong PIN costs each process one attempt, and a process that is started again and again locks no token that counts aloud.
func (t *token) present(lib cryptoki, s pkcs11.SessionHandle, slot uint, pin secret) error {
	m := t.mod
	info, err := lib.GetTokenInfo(slot)
	if err != nil {
		return err
	}
	id := info.ManufacturerID + "\x00" + info.SerialNumber + "\x00" + info.Label
	m.mu.Lock()
	if m.presenting[id] == nil {
		m.presenting[id] = &sync.Mutex{}
	}
	alone := m.presenting[id]
	m.mu.Unlock()
	alone.Lock() // several URIs may be about one token: what one has learned the next must know
	defer alone.Unlock()
	if info, err = lib.GetTokenInfo(slot); err != nil {
		return err
	}
	m.mu.Lock()
	refused, ok := m.refused[id]
	m.mu.Unlock()
	switch {
	case ok && refused == pin.sum():
		return fault.New(fault.Invalid, "The token has refused the PIN; it is not tried again before the PIN file is changed.")
	case info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return fault.New(fault.Invalid, "The token's PIN is locked.")
	case info.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return fault.New(fault.Invalid, "The token locks its PIN at the next wrong one, and so is not tried: log in once with the token's own tools.")
	}
	err = lib.Login(s, pkcs11.CKU_USER, string(pin))
	code, _ := errors.AsType[pkcs11.Error](err)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch code {
	case pkcs11.CKR_USER_ALREADY_LOGGED_IN: // by another URI of the same token; nothing was checked
		if sum, ok := m.logins[slot]; ok && sum != pin.sum() {
			return fault.New(fault.Invalid, "The token was given another PIN by another signing service.")
		}
		return nil
	case pkcs11.CKR_USER_PIN_NOT_INITIALIZED: // nothing was checked: the file's PIN may be the one that will be set
		return fault.Wrap(fault.Invalid, err, "The token has no user PIN yet.")
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_LOCKED:
		m.refused[id] = pin.sum()
		return fault.Wrap(fault.Invalid, err, "The token refuses the PIN.")
	}
	if err == nil {
		m.logins[slot] = pin.sum()
		delete(m.refused, id)
	}
	return err
}

// within does f in a session of its own, for which it waits.
func within[T any](ctx context.Context, t *token, c *conn, f func(cryptoki, pkcs11.SessionHandle) (T, error)) (T, error) {
	var none T
	select {
	case c.places <- struct{}{}:
	case <-c.dead:
		return none, errDropped
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
	over := func() { <-c.places }
	value, err := call(ctx, t, over, func(lib cryptoki) (T, error) {
		if t.mod.now() != c.generation {
			return none, errDropped // the handle may be somebody else's by now
		}
		s, err := c.session(lib)
		if err != nil {
			return none, fmt.Errorf("open session: %w", err)
		}
		value, err := f(lib, s)
		if err != nil || !c.keep(s) {
			_ = lib.CloseSession(s)
		}
		return value, err
	})
	if isAway(err) && !errors.Is(err, errLost) {
		t.drop(ctx, c, err)
	}
	return value, err
}

// keep takes a session back, unless the token went away.
func (c *conn) keep(s pkcs11.SessionHandle) bool {
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

// session returns an idle session, or opens one.
func (c *conn) session(lib cryptoki) (pkcs11.SessionHandle, error) {
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
