package signing_test

import (
	"bytes"
	"encoding/hex"
	"runtime"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/signtest"
)

// bzip2Bomb is literal data of 32 MiB of zeros, compressed with bzip2.
const bzip2Bomb = "425a6839314159265359e0c2ed480404074104d000100000080008a0005060014a990cec0100dd5008067100807b840403df177245385090e0c2ed48"

// TestBombsTakeNoMemory parses messages that expand a thousand times and more (hostile-inputs.md#compressed-packet).
// It is not parallel, since it measures the memory of the process.
func TestBombsTakeNoMemory(t *testing.T) {
	now := time.Now()
	key := signtest.NewKey(t, now.Add(-time.Hour), 0)
	good := key.Sign(t, claim, now)
	bomb, err := hex.DecodeString(bzip2Bomb)
	if err != nil {
		t.Fatal(err)
	}
	zeros := compressed(t, packetOf(11, make([]byte, 16<<20)))
	if ratio := (16 << 20) / len(zeros); ratio < 1000 {
		t.Fatalf("the bomb expands %d times, want 1000 at least", ratio)
	}
	for name, raw := range map[string][]byte{
		"literal data of 16 MiB, compressed a thousand times":     zeros,
		"the same, compressed twice":                              compressed(t, zeros),
		"the same in a packet without a length":                   withoutLength(t, packetOf(11, make([]byte, 16<<20))),
		"literal data of 32 MiB, compressed half a million times": packetOf(8, append([]byte{3}, bomb...)),
		"a good message with 16 MiB after it":                     compressed(t, append(bytes.Clone(good), make([]byte, 16<<20)...)),
		"a claim of 16 MiB, signed":                               compressed(t, key.SignBytes(t, make([]byte, 16<<20), signtest.Config{At: now})),
		"a packet with a length of four gigabytes":                {0xc0 | 11, 255, 255, 255, 255, 255, 'b'},
		"a million empty packets":                                 bytes.Repeat([]byte{0xc0 | 10, 0}, 1_000_000),
		"a million marker packets, compressed":                    compressed(t, bytes.Repeat([]byte{0xc0 | 10, 3, 'P', 'G', 'P'}, 1_000_000)),
		"literal data in 400,000 chunks of one byte":              append([]byte{0xc0 | 11}, bytes.Repeat([]byte{224, 'b'}, 400_000)...),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := signing.Parse(raw)
			runtime.ReadMemStats(&after)
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("Parse = %v, want Invalid", err)
			}
			// Parse copies its input once into a buffer that grows by doubling.
			if taken, most := after.TotalAlloc-before.TotalAlloc, uint64(8<<20+12*len(raw)); taken > most {
				t.Errorf("Parse of %d bytes allocates %d bytes, want %d at most", len(raw), taken, most)
			} else {
				t.Logf("Parse of %d bytes allocates %d bytes", len(raw), taken)
			}
			if _, err := signing.Verify(raw, key.Public, now); !fault.Is(err, fault.Invalid) {
				t.Errorf("Verify = %v, want Invalid", err)
			}
		})
	}
}
