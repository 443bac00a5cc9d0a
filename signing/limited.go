package signing

import "context"

// Slots limits the number of concurrent signatures. Make one with NewSlots. Several signers may share it.
type Slots chan struct{}

// NewSlots returns Slots for n concurrent signatures, and for one when n is less.
func NewSlots(n int) Slots { return make(Slots, max(1, n)) }

// Limited returns a signer that waits for a slot before each signature. It frees the slot when the signature is made,
// before the caller verifies it.
func (s Slots) Limited(signer Signer) Signer { return limited{signer, s} }

type limited struct {
	Signer
	slots Slots
}

// Sign implements Signer.
func (l limited) Sign(ctx context.Context, r Request) ([]byte, error) {
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-l.slots }()
	return l.Signer.Sign(ctx, r)
}
