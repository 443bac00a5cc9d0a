package auth

import (
	"context"
	"net/netip"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/countersign/countersign/internal/access"
	"github.com/countersign/countersign/internal/clientaddr"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// Limits of logins by the sources of people.
const (
	externalLife  = time.Minute // from the verification of credentials to the next one
	externalSlots = 8           // questions to sources at a time
)

// People are the sources of people outside the database.
type People interface {
	// Authenticate returns the active account of the person with a name and a password. source restricts the question
	// to one source; empty: all. The error is Unauthenticated, or Unavailable if a source cannot answer.
	Authenticate(ctx context.Context, source, name, password string) (pulp.User, error)
	// Confirm returns an account as its source confirms it; not active if the source no longer has the person. The
	// error is Unavailable if the source has not answered for too long.
	Confirm(ctx context.Context, u pulp.User) (pulp.User, error)
}

// external authenticates people of sources.
type external struct {
	People
	limit  *limiter                            // shares the questions among addresses
	checks *lru.Cache[[32]byte, externalCheck] // verified credentials, by their digest
}

// externalCheck are verified credentials.
type externalCheck struct {
	at   time.Time
	name string // of the account
	id   int64
}

// UsePeople adds sources of people. Call it before the Auth is used.
func (a *Auth) UsePeople(p People) {
	checks, err := lru.New[[32]byte, externalCheck](checksLimit)
	if err != nil { // the size is a positive constant
		panic(err)
	}
	a.people = &external{People: p, limit: newLimiter(externalSlots, a.now), checks: checks}
}

// Confirm returns an account as its source confirms it; accounts without a source are returned as they are. An account
// of a source that no longer has the person, or that is not configured, is not active. Call it for each account that a
// token or a certificate names. The error is Unavailable if the source has not answered for too long.
func (a *Auth) Confirm(ctx context.Context, u pulp.User) (pulp.User, error) {
	switch {
	case u.Kind != pulp.ExternalUser:
		return u, nil
	case a.people == nil:
		u.Active = false
		return u, nil
	}
	return a.people.Confirm(ctx, u)
}

// loginExternal is login for a name that no local account has. Like any other login it takes the time of a hash, so
// that the names of local accounts do not stand out.
func (a *Auth) loginExternal(ctx context.Context, from, username, password string, c candidate) (pulp.User, error) {
	digest := a.digest("external", username, password)
	if u, err := a.rememberedExternal(ctx, digest); err != nil || u.Active {
		return u, err
	}
	network := clientaddr.Network(from)
	if err := a.limit.acquire(ctx, network); err != nil {
		return pulp.User{}, err
	}
	checkPassword(a.decoy, password)
	a.limit.release(network, false)
	u, err := a.askPeople(ctx, network, digest, username, password, c.user.Source)
	if fault.Is(err, fault.Unauthenticated) {
		blocked, _ := a.limit.fail(network)
		a.warnOfBlocked(ctx, blocked, from)
		err = errPassword
	}
	return u, err
}

// askPeople asks the sources when the limiter of their questions admits it.
func (a *Auth) askPeople(
	ctx context.Context, network netip.Prefix, digest [32]byte, username, password, source string,
) (pulp.User, error) {
	if strings.HasPrefix(password, access.SecretPrefix) { // API tokens are never sent to a source
		return pulp.User{}, errPassword
	}
	if err := a.people.limit.acquire(ctx, network); err != nil {
		return pulp.User{}, err
	}
	failed := false
	defer func() { a.people.limit.release(network, failed) }()
	// Another attempt with the same credentials may have succeeded while this one waited.
	if u, err := a.rememberedExternal(ctx, digest); err != nil || u.Active {
		return u, err
	}
	at := a.now()
	u, err := a.people.Authenticate(ctx, source, username, password)
	if err != nil {
		failed = fault.Is(err, fault.Unauthenticated)
		return pulp.User{}, err
	}
	a.people.checks.Add(digest, externalCheck{at: at, name: u.Username, id: u.ID})
	return u, nil
}

// rememberedExternal returns the account of credentials that were verified within externalLife. It is not active if
// there is none.
func (a *Auth) rememberedExternal(ctx context.Context, digest [32]byte) (pulp.User, error) {
	check, ok := a.people.checks.Get(digest)
	if !ok || a.now().Sub(check.at) >= externalLife {
		return pulp.User{}, nil
	}
	u, err := a.accounts.UserByName(ctx, check.name)
	if fault.Is(err, fault.NotFound) || err == nil && (u.ID != check.id || u.Kind != pulp.ExternalUser) {
		return pulp.User{}, nil
	}
	if err != nil {
		return pulp.User{}, err
	}
	return a.people.Confirm(ctx, u)
}
