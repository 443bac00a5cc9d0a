package signing

import (
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Expires returns the time after which signatures of the key are not valid any more: the primary key expires then, or the
// last of the keys that may sign. It is zero if that never happens, and the time of creation for a key that was revoked or
// may not sign at all.
func (k PublicKey) Expires() time.Time {
	primary, _ := k.entity.PrimarySelfSignature()
	never := k.entity.PrimaryKey.CreationTime
	if primary == nil || len(k.entity.Revocations) > 0 {
		return never
	}
	var ends []time.Time // of the keys that may sign
	if !primary.FlagsValid || primary.FlagSign {
		ends = append(ends, expiry(k.entity.PrimaryKey, primary))
	}
	for _, sub := range k.entity.Subkeys {
		if sub.Sig != nil && len(sub.Revocations) == 0 && sub.Sig.FlagsValid && sub.Sig.FlagSign {
			ends = append(ends, expiry(sub.PublicKey, sub.Sig))
		}
	}
	if len(ends) == 0 {
		return never
	}
	end := ends[0]
	for _, e := range ends {
		if e.IsZero() || !end.IsZero() && e.After(end) {
			end = e
		}
	}
	if whole := expiry(k.entity.PrimaryKey, primary); end.IsZero() || !whole.IsZero() && whole.Before(end) {
		end = whole
	}
	return end
}

// expiry returns the time at which a key expires according to its self-signature, or zero.
func expiry(key *packet.PublicKey, self *packet.Signature) time.Time {
	if self.KeyLifetimeSecs == nil || *self.KeyLifetimeSecs == 0 {
		return time.Time{}
	}
	return key.CreationTime.Add(time.Duration(*self.KeyLifetimeSecs) * time.Second)
}
