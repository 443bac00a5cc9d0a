package auth_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/countersign/countersign/internal/auth"
	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
)

// tooLong is a password that is rejected without a hash computation.
var tooLong = strings.Repeat("x", 73)

// cheap returns a hash of the lowest cost.
func cheap(t *testing.T, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

// attempt logs in with a request from an address.
func attempt(ctx context.Context, a *auth.Auth, from, username, password string) error {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
	r.RemoteAddr = from
	r.SetBasicAuth(username, password)
	_, err := a.Basic(r)
	return err
}

// TestFailedLoginsAreLimited checks that an address is blocked after ten failures within a minute, that other addresses
// are not, and that the block ends.
func TestFailedLoginsAreLimited(t *testing.T) {
	t.Parallel()
	hash := cheap(t, "secret")
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		a := auth.New(accounts{
			"admin": {ID: 1, Username: "admin", Hash: hash, Staff: true, Active: true},
			"acme":  {ID: 2, Username: "acme", Hash: hash, Active: true},
		}, slog.New(slog.NewTextHandler(&log, nil)))
		const attacker, other = "[2001:db8:0:7::1]:5000", "[2001:db8:0:8::1]:5000"
		want := func(login string, err error, kind fault.Kind) {
			t.Helper()
			if kind == -1 && err != nil || kind != -1 && !fault.Is(err, kind) {
				t.Errorf("%s: %v", login, err)
			}
		}
		const succeeds = fault.Kind(-1)
		want("acme from the attacker's network, before", attempt(t.Context(), a, attacker, "acme", "secret"), succeeds)
		for i := range 10 {
			from := "[2001:db8:0:7::" + strconv.Itoa(i) + "]:5000" // one /64
			user := []string{"admin", "nobody", "x\x00y"}[i%3]
			want("wrong password "+strconv.Itoa(i), attempt(t.Context(), a, from, user, tooLong), fault.Unauthenticated)
			time.Sleep(time.Second)
		}
		for _, user := range []string{"admin", "nobody", "x\x00y"} {
			err := attempt(t.Context(), a, attacker, user, tooLong)
			want("the eleventh, of "+user, err, fault.TooMany)
			if got := fault.RetryAfter(err); got != 50*time.Second {
				t.Errorf("the eleventh, of %s: Retry-After %v, want 50s", user, got)
			}
		}
		want(
			"a right password from the attacker's network",
			attempt(t.Context(), a, attacker, "admin", "secret"),
			fault.TooMany,
		)
		want("credentials that were verified recently", attempt(t.Context(), a, attacker, "acme", "secret"), succeeds)
		want("the account from elsewhere", attempt(t.Context(), a, other, "admin", "secret"), succeeds)
		want(
			"the account in the attacker's network, once it is verified",
			attempt(t.Context(), a, attacker, "admin", "secret"),
			succeeds,
		)
		want(
			"the account from a mapped address",
			attempt(t.Context(), a, "[::ffff:192.0.2.1]:1", "acme", "wrong"),
			fault.Unauthenticated,
		)
		if strings.Count(log.String(), "too many failed logins") != 1 ||
			strings.Count(log.String(), "login refused") != 11 {
			t.Errorf("the log:\n%s", log.String())
		}
		time.Sleep(50*time.Second - time.Nanosecond)
		want("just before the first failure ends", attempt(t.Context(), a, attacker, "nobody", tooLong), fault.TooMany)
		time.Sleep(time.Nanosecond)
		want("when the first failure ends", attempt(t.Context(), a, attacker, "nobody", tooLong), fault.Unauthenticated)
		want("and again", attempt(t.Context(), a, attacker, "nobody", tooLong), fault.TooMany)
	})
}

// TestCredentialsStayVerifiedWhileTheyAreUsed checks that a client behind a blocked address can log in as long as it
// repeats its login within an hour, and that a change of the password ends that.
func TestCredentialsStayVerifiedWhileTheyAreUsed(t *testing.T) {
	t.Parallel()
	first, second := cheap(t, "secret"), cheap(t, "changed")
	synctest.Test(t, func(t *testing.T) {
		users := accounts{"acme": {ID: 2, Username: "acme", Hash: first, Active: true}}
		a := auth.New(users, slog.New(slog.DiscardHandler))
		const from = "192.0.2.1:5000"
		block := func() {
			for range 10 {
				_ = attempt(t.Context(), a, from, "admin", tooLong)
			}
		}
		if err := attempt(t.Context(), a, from, "acme", "secret"); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			time.Sleep(50 * time.Minute)
			block()
			if err := attempt(t.Context(), a, from, "acme", "secret"); err != nil {
				t.Fatalf("credentials in use: %v", err)
			}
		}
		users["acme"] = pulp.User{ID: 2, Username: "acme", Hash: second, Active: true}
		if err := attempt(t.Context(), a, from, "acme", "secret"); !fault.Is(err, fault.TooMany) {
			t.Errorf("the old password: %v", err)
		}
		users["acme"] = pulp.User{ID: 2, Username: "acme", Hash: first, Active: true}
		time.Sleep(time.Hour)
		block()
		if err := attempt(t.Context(), a, from, "acme", "secret"); !fault.Is(err, fault.TooMany) {
			t.Errorf("credentials after an hour without use: %v", err)
		}
	})
}

// TestParallelLoginsFromOneAddress checks over HTTP that ten of 100 concurrent wrong logins are verified, and that the
// first login from another address succeeds meanwhile.
func TestParallelLoginsFromOneAddress(t *testing.T) {
	t.Parallel()
	a := auth.New(accounts{"admin": {ID: 1, Username: "admin", Hash: cheap(t, "secret"), Staff: true, Active: true}}, slog.New(slog.DiscardHandler))
	var mu sync.Mutex
	var order []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := a.Basic(r)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			order = append(order, "accepted")
		case fault.Is(err, fault.TooMany):
			order = append(order, "limited")
			w.WriteHeader(http.StatusTooManyRequests)
		default:
			order = append(order, "wrong")
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer server.Close()
	login := func(from, password string) int {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		client := http.Client{
			Transport: &http.Transport{
				DisableKeepAlives: true,
				DialContext: func(ctx context.Context, network, at string) (net.Conn, error) {
					return d.DialContext(ctx, network, at)
				},
			},
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Error(err)
			return 0
		}
		r.SetBasicAuth("admin", password)
		res, err := client.Do(r)
		if err != nil {
			t.Error(err)
			return 0
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	var parallel sync.WaitGroup
	for range 100 {
		parallel.Go(func() { login("127.0.0.1", "wrong") })
	}
	parallel.Go(func() {
		if got := login("127.0.0.2", "secret"); got != http.StatusOK {
			t.Errorf("a correct login from elsewhere: %d", got)
		}
	})
	parallel.Wait()
	count := map[string]int{}
	for _, result := range order {
		count[result]++
	}
	if count["wrong"] != 10 || count["limited"] != 90 || count["accepted"] != 1 {
		t.Errorf("%v, want 10 wrong, 90 limited, 1 accepted", count)
	}
}
