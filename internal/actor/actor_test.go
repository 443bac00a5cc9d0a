package actor_test

import (
	"context"
	"testing"

	"github.com/countersign/countersign/internal/actor"
)

func TestFromReturnsTheActorOfTheContext(t *testing.T) {
	t.Parallel()
	if got := actor.From(t.Context()); got != actor.BySystem() || !got.Authenticated() {
		t.Errorf("without an actor: %+v, want the system", got)
	}
	alice := actor.Actor{ID: 7, Name: "alice", Kind: actor.User, Identity: "token 1", Address: "192.0.2.1"}
	ctx := actor.With(t.Context(), alice)
	if got := actor.From(context.WithoutCancel(ctx)); got != alice {
		t.Errorf("From = %+v, want %+v", got, alice)
	}
	if got := actor.From(actor.With(ctx, actor.ByCommand())); got.Name != actor.CommandName || got.Kind != actor.Command {
		t.Errorf("From = %+v, want the command line", got)
	}
}

func TestUnknownHasTheAddressWithoutThePort(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{
		"192.0.2.1:4711": "192.0.2.1", "[2001:db8::1]:4711": "2001:db8::1", "192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::1", "": "",
	} {
		got := actor.Unknown(remote)
		if got.Address != want || got.Authenticated() || got.ID != 0 {
			t.Errorf("Unknown(%q) = %+v, want the address %q", remote, got, want)
		}
	}
}
