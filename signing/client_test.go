package signing_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/signing"
)

// gnupg is a GnuPG home for tests.
type gnupg struct {
	t    *testing.T
	home string
}

func newGnuPG(t *testing.T) gnupg {
	t.Helper()
	for _, tool := range []string{"gpg", "gpgconf"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	home, err := os.MkdirTemp("", "g") //nolint:usetesting // the path of gpg-agent's socket in it must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		_ = os.RemoveAll(home)
	})
	return gnupg{t, home}
}

func (g gnupg) try(in string, arguments ...string) ([]byte, error) {
	g.t.Helper()
	all := append([]string{"--homedir", g.home, "--batch", "--yes", "--quiet", "--no-auto-check-trustdb", "--pinentry-mode", "loopback", "--passphrase", ""}, arguments...)
	c := exec.CommandContext(g.t.Context(), "gpg", all...)
	var out, errOut bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(in), &out, &errOut
	if err := c.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("gpg %v: %w\n%s", arguments, err, &errOut)
	}
	return out.Bytes(), nil
}

func (g gnupg) run(in string, arguments ...string) []byte {
	g.t.Helper()
	out, err := g.try(in, arguments...)
	if err != nil {
		g.t.Fatal(err)
	}
	return out
}

// generate makes a key that may only sign and returns its name. Options may change its creation time.
func (g gnupg) generate(name, algorithm, expires string, options ...string) string {
	g.t.Helper()
	g.run("", append(options, "--quick-generate-key", name+"@example.com", algorithm, "sign", expires)...)
	return name + "@example.com"
}

func (g gnupg) fingerprints(name string) []string {
	g.t.Helper()
	var prints []string
	for line := range strings.Lines(string(g.run("", "--with-colons", "--list-keys", name))) {
		if fields := strings.Split(line, ":"); fields[0] == "fpr" {
			prints = append(prints, fields[9])
		}
	}
	return prints
}

func (g gnupg) sign(name string, options ...string) []byte {
	g.t.Helper()
	claim, err := signing.EncodeClaim(signing.Claim{ManifestDigest: digest.FromString("m"), DockerReference: "example.com/a:1"})
	if err != nil {
		g.t.Fatal(err)
	}
	return g.run(string(claim), append(options, "--local-user", name, "--sign")...)
}

func (g gnupg) export(names ...string) []byte {
	g.t.Helper()
	return g.run("", append([]string{"--armor", "--export"}, names...)...)
}

// accepts reports whether gpg, called as clients call it, accepts a signature with the keys in an empty home.
func accepts(t *testing.T, raw []byte, blobs ...[]byte) bool {
	t.Helper()
	g := newGnuPG(t)
	for _, blob := range blobs {
		_, _ = g.try(string(blob), "--import") // the status is also an error when gpg skips keys
	}
	file := filepath.Join(t.TempDir(), "signature")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	status, _ := g.try("", "--status-fd", "1", "--output", filepath.Join(t.TempDir(), "out"), "--decrypt", file)
	return bytes.Contains(status, []byte("[GNUPG:] GOODSIG ")) && !bytes.Contains(status, []byte("[GNUPG:] ERROR ")) && bytes.Contains(status, []byte("[GNUPG:] VALIDSIG "))
}

// TestKeyringAgreesWithGPG compares the results of Keyring.Verify and gpg for many kinds of keys and signatures.
func TestKeyringAgreesWithGPG(t *testing.T) {
	t.Parallel()
	g := newGnuPG(t)
	type testCase struct {
		name  string
		raw   []byte
		blobs [][]byte
	}
	var cases []testCase
	add := func(name string, raw []byte, blobs ...[]byte) {
		cases = append(cases, testCase{name: name, raw: raw, blobs: blobs})
	}
	const past, then, ahead = "20200101T000000", "20200601T000000", "20400101T000000"
	at := func(when string) []string { return []string{"--faked-system-time", when, "--ignore-time-conflict"} }

	for _, algorithm := range []string{"rsa2048", "rsa1024", "dsa2048", "ed25519", "nistp256", "nistp384", "secp256k1", "brainpoolP256r1"} {
		key := g.generate(algorithm, algorithm, "never")
		add(algorithm, g.sign(key), g.export(key))
	}
	rsa, ed := "rsa2048@example.com", "ed25519@example.com"
	for _, hash := range []string{"SHA1", "SHA224", "SHA384", "SHA512"} {
		add("rsa with "+hash, g.sign(rsa, "--digest-algo", hash), g.export(rsa))
	}
	add("ed25519 with SHA1", g.sign(ed, "--digest-algo", "SHA1"), g.export(ed))
	add("another key", g.sign(ed), g.export(rsa))
	add("one of two keys", g.sign(ed), g.export(rsa, ed))
	add("the second of two armors", g.sign(ed), slices.Concat(g.export(rsa), []byte("\n"), g.export(ed)))
	add("the second of two files", g.sign(ed), g.export(rsa), g.export(ed))
	add("a binary key", g.sign(ed), g.run("", "--export", ed))
	add("a secret key", g.sign(ed), g.run("", "--armor", "--export-secret-keys", ed))
	add("a signature of the future", g.sign(ed, at(ahead)...), g.export(ed))
	add("a signature older than its key", g.sign(ed, at(past)...), g.export(ed))
	add("uncompressed", g.sign(ed, "--compress-level", "0"), g.export(ed))
	add("a signature that has expired", g.sign(ed, "--default-sig-expire", "seconds=1"), g.export(ed))
	add("a signature that will expire", g.sign(ed, "--default-sig-expire", "1y"), g.export(ed))

	old := g.generate("old", "ed25519", "never", at(past)...)
	add("an old signature", g.sign(old, at(then)...), g.export(old))
	expired := g.generate("expired", "ed25519", "1y", at(past)...)
	before := g.sign(expired, at(then)...)
	stale := g.export(expired)
	add("of a key that has expired since", before, stale)
	g.run("", "--quick-set-expire", g.fingerprints(expired)[0], "never")
	add("of a key whose life was prolonged", before, g.export(expired))
	add("of a key whose life was prolonged, stale copy first", before, stale, g.export(expired))
	add("of a key whose life was prolonged, stale copy last", before, g.export(expired), stale)
	soon := g.generate("soon", "ed25519", "never")
	late := g.sign(soon, at(ahead)...)
	g.run("", "--quick-set-expire", g.fingerprints(soon)[0], "1y")
	add("of the future, when its key will have expired", late, g.export(soon))
	early := g.generate("early", "ed25519", "never", at(ahead)...)
	add("by a key of the future", g.sign(early, at(ahead)...), g.export(early))
	weak := g.generate("weak", "rsa2048", "never", append(at(past), "--cert-digest-algo", "SHA1")...)
	add("by a key bound with SHA1", g.sign(weak), g.export(weak))

	revoked := g.generate("revoked", "ed25519", "never")
	good, whole := g.sign(revoked), g.export(revoked)
	g.revoke(g.fingerprints(revoked)[0])
	add("by a revoked key", good, g.export(revoked))
	add("by a key revoked in another copy", good, whole, g.export(revoked))
	add("by a key revoked in the first copy", good, g.export(revoked), whole)

	nameless := g.generate("nameless", "ed25519", "never", at(past)...)
	good = g.sign(nameless)
	g.run("", "--quick-add-uid", g.fingerprints(nameless)[0], "other@example.com")
	g.run("", "--quick-revoke-uid", g.fingerprints(nameless)[0], nameless)
	add("by a key one of whose names was revoked", good, g.export(g.fingerprints(nameless)[0]))

	parent := g.generate("parent", "ed25519", "never", at(past)...)
	print0 := g.fingerprints(parent)[0]
	g.run("", "--quick-add-key", print0, "rsa2048", "sign", "never")
	sub := g.fingerprints(parent)[1]
	bySub := g.sign(sub + "!")
	add("by a subkey", bySub, g.export(parent))
	add("by the primary key beside a subkey", g.sign(print0+"!"), g.export(parent))
	withoutIt := g.export(print0)
	g.command(print0, "key 1\nrevkey\ny\n0\n\ny\nsave\n")
	add("by a revoked subkey", bySub, g.export(parent))
	add("by a subkey revoked in another copy", bySub, withoutIt, g.export(parent))
	add("by the primary key beside a revoked subkey", g.sign(print0+"!"), g.export(parent))

	shortSub := g.generate("shortsub", "ed25519", "never", at(past)...)
	g.run("", append(at(past), "--quick-add-key", g.fingerprints(shortSub)[0], "ed25519", "sign", "1y")...)
	add("by a subkey that has expired", g.sign(g.fingerprints(shortSub)[1]+"!", at(then)...), g.export(shortSub))
	shortPrimary := g.generate("shortprimary", "ed25519", "1y", at(past)...)
	g.run("", append(at(past), "--quick-add-key", g.fingerprints(shortPrimary)[0], "ed25519", "sign", "never")...)
	add("by a subkey of a key that has expired", g.sign(g.fingerprints(shortPrimary)[1]+"!", at(then)...), g.export(shortPrimary))

	certify := g.generate("certify", "rsa2048", "never")
	good = g.sign(certify)
	g.command(g.fingerprints(certify)[0], "change-usage\ns\nq\nsave\n")
	add("by a key that may no longer sign", good, g.export(certify))

	broken := bytes.Clone(g.sign(ed, "--compress-level", "0"))
	broken[len(broken)-1] ^= 1
	add("a broken signature", broken, g.export(ed))

	time.Sleep(1100 * time.Millisecond) // for the signature that expires
	now, accepted := time.Now(), 0
	unevaluated := []string{"dsa2048", "secp256k1", "brainpoolP256r1"}
	var differ []string // names of the cases in which Verify and gpg disagree
	for _, c := range cases {
		theirs := accepts(t, c.raw, c.blobs...)
		ring, err := readKeyring(t.Context(), c.blobs...)
		if err == nil {
			_, _, err = ring.Verify(t.Context(), c.raw, now)
		}
		_, limited := errors.AsType[*signing.NotEvaluatedError](err)
		if limited != slices.Contains(unevaluated, c.name) {
			t.Errorf("%s: not evaluated = %t (%v), want %t", c.name, limited, err, !limited)
		}
		if limited { // gpg may accept it, and a service may have such a key
			if theirs {
				accepted++
			}
			key, err := signing.ParsePublicKey(string(c.blobs[0]))
			if err == nil {
				_, err = signing.Verify(c.raw, key, now)
			}
			if err != nil {
				t.Errorf("%s: Verify with the key of a service = %v", c.name, err)
			}
			continue
		}
		if ours := err == nil; ours != theirs {
			t.Errorf("%s: gpg accepts it: %t; Keyring.Verify: %t (%v)", c.name, theirs, ours, err)
		}
		if theirs {
			accepted++
		}
		if theirs != verifies(c.raw, ring, now) {
			differ = append(differ, c.name)
		}
	}
	documented := []string{ // docs/verify.md
		"a signature of the future", "ed25519 with SHA1", "of the future, when its key will have expired", "rsa with SHA1",
	}
	slices.Sort(differ)
	if !slices.Equal(differ, documented) {
		t.Errorf("Verify differs from gpg for %q, want %q", differ, documented)
	}
	t.Logf("gpg accepts %d of %d", accepted, len(cases))
	if accepted < 15 || len(cases)-accepted < 10 {
		t.Errorf("gpg accepts %d of %d cases; want 15 accepted and 10 rejected at least", accepted, len(cases))
	}
}

// verifies reports whether Verify accepts a signature with one of the keys.
func verifies(raw []byte, ring signing.Keyring, at time.Time) bool {
	return slices.ContainsFunc(ring.Keys(), func(k signing.PublicKey) bool {
		_, err := signing.Verify(raw, k, at)
		return err == nil
	})
}

// revoke imports the revocation certificate that gpg makes with each key.
func (g gnupg) revoke(fingerprint string) {
	g.t.Helper()
	text, err := os.ReadFile(filepath.Join(g.home, "openpgp-revocs.d", fingerprint+".rev"))
	if err != nil {
		g.t.Fatal(err)
	}
	g.run(strings.ReplaceAll(string(text), ":-----BEGIN", "-----BEGIN"), "--import")
}

// command edits a key with the commands of --edit-key.
func (g gnupg) command(fingerprint, commands string) {
	g.t.Helper()
	g.run(commands, "--command-fd", "0", "--no-batch", "--no-tty", "--edit-key", fingerprint)
}
