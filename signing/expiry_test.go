package signing_test

import (
	"testing"
	"time"

	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
)

func TestExpires(t *testing.T) {
	t.Parallel()
	made := time.Now().Add(-time.Hour).Truncate(time.Second)
	for lifetime, want := range map[time.Duration]time.Time{0: {}, 48 * time.Hour: made.Add(48 * time.Hour), time.Minute: made.Add(time.Minute)} {
		key, err := signing.ParsePublicKey(signtest.NewKey(t, made, lifetime).Armor)
		if err != nil {
			t.Fatal(err)
		}
		if got := key.Expires(); !got.Equal(want) {
			t.Errorf("Expires of a key of %v with a lifetime of %v = %v, want %v", made, lifetime, got, want)
		}
	}
}
