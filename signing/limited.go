package signing

import "context"

// Slots bounds how many signatures are made at a time. Make one with NewSlots; several signers may share it.
type Slots chan struct{}

// NewSlots returns room for n signatures at a time, for one where n is less.
func NewSlots(n int) Slots { return make(Slots, max(1, n)) }

// Limited returns a signer that waits for room before it has another sign. What is done with a signature afterwards, its verification among it, takes none.
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
