package adopt_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/pulp"
	"github.com/countersign/countersign/storage"
)

func TestSettleTag(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		prepare    func(f *fixture) (want digest.Digest)
		notFollow  bool
		tag        string // default: v1
		wantErr    bool
		wantAdopts bool
	}{
		"unchanged": {prepare: func(f *fixture) digest.Digest { f.push(name, "one", "v1"); f.flush(); return "" }},
		"waiting in the outbox": {prepare: func(f *fixture) digest.Digest {
			f.push(name, "one", "v1")
			f.upstream.image(name, "two", "v1")
			return ""
		}},
		"absent everywhere": {prepare: func(f *fixture) digest.Digest { f.here(name); return "" }},
		"deleted upstream": {
			prepare: func(f *fixture) digest.Digest {
				f.push(name, "one", "v1")
				f.flush()
				f.upstream.remove(name, "v1")
				return ""
			},
		},
		"moved by another client": {
			prepare: func(f *fixture) digest.Digest {
				f.push(name, "one", "v1")
				f.flush()
				return f.upstream.image(name, "two", "v1")
			},
			wantAdopts: true,
		},
		"created by another client": {
			prepare:    func(f *fixture) digest.Digest { f.here(name); return f.upstream.image(name, "two", "v1") },
			wantAdopts: true,
		},
		"moved, and not followed": {
			prepare: func(f *fixture) digest.Digest {
				f.push(name, "one", "v1")
				f.flush()
				return f.upstream.image(name, "two", "v1")
			},
			notFollow: true,
		},
		"moved to an image that cannot be stored": {
			prepare: func(f *fixture) digest.Digest {
				f.push(name, "one", "v1")
				f.flush()
				return f.upstream.store(name, "v1", pulp.OCIManifest, []byte(`{}`))
			},
		},
		"a pin tag": {
			prepare: func(f *fixture) digest.Digest { f.here(name); return "" }, tag: pulp.PinTag(digest.FromString("x")),
		},
		"an outage": {
			prepare: func(f *fixture) digest.Digest { f.here(name); f.upstream.down = true; return "" }, wantErr: true,
		},
	}
	for title, tt := range tests {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.adopter.Follow = !tt.notFollow
			want, tag := tt.prepare(f), tt.tag
			if tag == "" {
				tag = "v1"
			}
			before := f.version(name)
			got, err := f.adopter.SettleTag(t.Context(), "alice", f.here(name), tag)
			if got != want || (err != nil) != tt.wantErr {
				t.Errorf("SettleTag = %q, %v, want %q and an error: %t", got, err, want, tt.wantErr)
			}
			if adopts := f.version(name) != before; adopts != tt.wantAdopts {
				t.Errorf("adopted: %t, want %t", adopts, tt.wantAdopts)
			}
		})
	}
}

func TestIsFatal(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	tests := map[string]struct {
		ctx        context.Context
		err        error
		want       bool
		wantIfDown bool
	}{
		"an outage of the upstream": {err: errDown, wantIfDown: true},
		"an absent object":          {err: storage.ErrNotFound},
		"an unsupported request":    {err: storage.ErrUnsupported},
		"invalid content":           {err: fault.New(fault.Invalid, "no")},
		"an internal error":         {err: errors.New("disk"), want: true, wantIfDown: true},
		"an outage of the database": {err: sql.ErrConnDone, want: true, wantIfDown: true},
		"an ended context":          {ctx: ended, err: storage.ErrNotFound, want: true, wantIfDown: true},
	}
	for _, down := range []bool{false, true} {
		f.upstream.down = down
		for title, tt := range tests {
			ctx, want := tt.ctx, tt.want
			if ctx == nil {
				ctx = t.Context()
			}
			if down {
				want = tt.wantIfDown
			}
			if got := f.adopter.IsFatal(ctx, tt.err); got != want {
				t.Errorf("%s, upstream down %t: IsFatal = %t, want %t", title, down, got, want)
			}
		}
	}
}

// TestOutageEndsAfterThePing expects that an error stays fatal if the upstream answers again between the ping after the
// failed request and the caller's question.
func TestOutageEndsAfterThePing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.failing("tags", errDown)
	f.upstream.downPings = 1
	_, err := f.adopter.Repository(t.Context(), caller, name)
	if !errors.Is(err, errDown) || !f.adopter.IsFatal(t.Context(), err) {
		t.Errorf("Repository = %v, fatal %t; want a fatal outage", err, f.adopter.IsFatal(t.Context(), err))
	}
}
