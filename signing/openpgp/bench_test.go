package openpgp_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/openpgp"
	"github.com/countersign/countersign/signing/signtest"
)

// BenchmarkSign measures, for each algorithm, the operation of the key, a signature, and a signature with its
// verification.
func BenchmarkSign(b *testing.B) {
	for _, algorithm := range []struct {
		name   string
		config packet.Config
	}{
		{name: "RSA-2048", config: packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048}},
		{name: "RSA-3072", config: packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 3072}},
		{name: "RSA-4096", config: packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 4096}},
		{name: "P-256", config: packet.Config{Algorithm: packet.PubKeyAlgoECDSA, Curve: packet.CurveNistP256}},
		{name: "Ed25519", config: packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, Curve: packet.Curve25519}},
	} {
		b.Run(algorithm.name, func(b *testing.B) { benchmark(b, algorithm.config) })
	}
}

func benchmark(b *testing.B, c packet.Config) {
	e := newEntity(b, c)
	bare := asToken(b, e.PrivateKey)
	s, err := openpgp.Load(openpgp.Options{KeyFile: writeFile(b, secretOf(b, e)), Creator: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	checked, r := signing.NewChecked(s, s.Public()), signtest.Request("localhost:5000/a/b:1", `{"schemaVersion": 2}`)
	digest := sha256.Sum256([]byte(r.Claim.ManifestDigest))
	var hash crypto.SignerOpts = crypto.SHA256
	if c.Algorithm == packet.PubKeyAlgoEdDSA {
		hash = crypto.Hash(0)
	}
	for _, variant := range []struct {
		name string
		sign func() error
	}{
		{name: "bare", sign: func() error { _, err := bare.Sign(rand.Reader, digest[:], hash); return err }},
		{name: "message", sign: func() error { _, err := s.Sign(b.Context(), r); return err }},
		{name: "checked", sign: func() error { _, err := checked.Sign(b.Context(), r); return err }},
	} {
		b.Run(variant.name, func(b *testing.B) {
			for b.Loop() {
				if err := variant.sign(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signatures/s")
		})
	}
}
