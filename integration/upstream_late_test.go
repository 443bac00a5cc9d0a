package integration

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestUpstreamCrash kills the server when the upstream has a part of a push that the server has not recorded. The same
// push completes it.
func TestUpstreamCrash(t *testing.T) {
	t.Parallel()
	for title, which := range map[string]func(*http.Request) bool{
		"a blob is there":     isBlobCommit,
		"a manifest is there": isManifestPut,
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			f := startFronted(t)
			before := f.state(t)
			reached := make(chan struct{})
			stall, _ := once(which, f.proxy.answerLost(reached))
			f.proxy.set(stall)
			ended := make(chan error)
			go func() {
				_, err := f.pushTiny(t, f.name, "v2", "two")
				ended <- err
			}()
			<-reached
			f.Kill()
			if err := <-ended; err == nil {
				t.Error("a push was acknowledged by a server that was killed before")
			}
			f.proxy.heal(t)
			f.start(t)
			if after := f.state(t); after != before {
				t.Errorf("a push that was not acknowledged has made %s of %s", after, before)
			}
			f.caughtUp(t)
			f.isServed(t, f.name, f.pushed(t, "v2", "two"))
			f.caughtUp(t)
			f.versionsAreComplete(t, f.href)
		})
	}
	t.Run("a tag is there", func(t *testing.T) {
		t.Parallel()
		f := startFronted(t)
		reached := make(chan struct{})
		stall, _ := once(isTagPut, f.proxy.answerLost(reached))
		f.proxy.set(stall)
		image := f.pushed(t, "v2", "two")
		<-reached
		f.Kill()
		f.proxy.heal(t)
		f.start(t)
		f.isServed(t, f.name, image)
		newer := f.pushed(t, "v2", "three")
		f.caughtUp(t)
		f.isServed(t, f.name, newer)
		f.versionsAreComplete(t, f.href)
	})
}

// TestUpstreamRacingPushes repeatedly pushes two images to one tag at the same time, through a slow upstream: in the
// end the upstream has the same image as the server.
func TestUpstreamRacingPushes(t *testing.T) {
	t.Parallel()
	const rounds = 25
	f := startFronted(t, "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=1s")
	var n sync.Mutex
	turn := 0
	f.proxy.set(func(r *http.Request) http.HandlerFunc { // delays vary, so that requests overtake each other
		n.Lock()
		defer n.Unlock()
		turn++
		return f.proxy.slow(time.Duration(turn*37%100) * time.Millisecond)
	})
	for round := range rounds {
		var pushing sync.WaitGroup
		for _, who := range []string{"a", "b"} {
			pushing.Go(func() {
				if _, err := f.pushTiny(t, f.name, "raced", fmt.Sprintf("%s %d", who, round)); err != nil {
					t.Errorf("a push: %v", err)
				}
			})
		}
		pushing.Wait()
		if round%5 == 4 {
			f.caughtUp(t)
		}
	}
	f.proxy.heal(t)
	f.caughtUp(t)
	latest := f.versionsAreComplete(t, f.href)
	if latest["number"] != float64(2*rounds+1) {
		t.Errorf("%v versions, want one for each push and none for our own writes", latest["number"])
	}
}

// staysAt checks that a late write of the tag "moving" has no effect: the tag is the last pushed image, here and at the
// upstream, and the state has not changed.
func (f *fronted) staysAt(t *testing.T, newest pushed, before string) {
	t.Helper()
	f.caughtUp(t)
	time.Sleep(5 * time.Second) // several comparisons run
	f.caughtUp(t)
	if got := f.digest(t, f.name, "moving"); got != newest.name {
		t.Errorf("the tag is %s here, want %s, which was pushed last", got, newest.name)
	}
	if after := f.state(t); after != before {
		t.Errorf("a late write has made %s of %s", after, before)
	}
}

// TestUpstreamLateWrite lets writes of a tag time out and reach the upstream after the newest write, with different
// delays. The upstream must get the newest image again, and the server must not take an older one for a push by others.
func TestUpstreamLateWrite(t *testing.T) {
	t.Parallel()
	for title, c := range map[string]struct {
		writes int           // number of writes that time out, and arrive in reverse order
		after  time.Duration // delay after the arrival of the newest write
	}{
		"at once":                {writes: 1},
		"after some comparisons": {writes: 1, after: 8 * time.Second},
		"two of them":            {writes: 2},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			f := startFronted(t, "COUNTERSIGN_UPSTREAM_COMPARE_EVERY=1s")
			var arrive []func()
			for n := range c.writes {
				now, arrived := make(chan struct{}), make(chan struct{})
				late, met := once(isTagPut, f.proxy.late(t, now, arrived))
				f.proxy.set(late)
				f.pushed(t, "moving", fmt.Sprintf("older %d", n))
				<-met
				arrive = append(arrive, func() { close(now); <-arrived })
			}
			newest := f.pushed(t, "moving", "newest")
			f.caughtUp(t)
			time.Sleep(c.after)
			before := f.state(t)
			for _, now := range slices.Backward(arrive) {
				now()
			}
			f.staysAt(t, newest, before)
		})
	}
}
