package oracle

import (
	"bytes"
	"context"
	"crypto"
	"crypto/dsa" //nolint:staticcheck // gpg supports such keys
	crand "crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
	_ "go.podman.io/image/v5/directory" // the imported transports define the valid scopes of a policy
	"go.podman.io/image/v5/docker"
	_ "go.podman.io/image/v5/docker/archive"
	_ "go.podman.io/image/v5/oci/archive"
	_ "go.podman.io/image/v5/oci/layout"
	_ "go.podman.io/image/v5/openshift"
	_ "go.podman.io/image/v5/sif"
	"go.podman.io/image/v5/signature"
	_ "go.podman.io/image/v5/tarball"
	"go.podman.io/image/v5/types"

	"github.com/countersign/countersign/signing"
	"github.com/countersign/countersign/signing/policy"
)

// cases is the number of images to evaluate, and mutants the number of changed policies to parse. Most of these are
// invalid.
const (
	cases   = 3000
	mutants = 3000
	seed    = 20261123
)

// unsupported is the index of a DSA key, which clients support and signing/policy does not.
const unsupported = 3

// dsaKey makes a DSA key.
func dsaKey() (*openpgp.Entity, error) {
	config := &packet.Config{DefaultHash: crypto.SHA256}
	var key dsa.PrivateKey
	if err := dsa.GenerateParameters(&key.Parameters, crand.Reader, dsa.L1024N160); err != nil {
		return nil, err
	}
	if err := dsa.GenerateKey(&key, crand.Reader); err != nil {
		return nil, err
	}
	private := packet.NewDSAPrivateKey(config.Now(), &key)
	e := &openpgp.Entity{PrimaryKey: &private.PublicKey, PrivateKey: private, Identities: map[string]*openpgp.Identity{}}
	return e, e.AddUserId("key 3", "", "k@example.com", config)
}

// image is an image for the oracle.
type image struct {
	reference  types.ImageReference
	manifest   []byte
	signatures [][]byte
}

func (i image) Reference() types.ImageReference { return i.reference }
func (i image) Manifest(context.Context) ([]byte, string, error) {
	return i.manifest, "application/vnd.oci.image.manifest.v1+json", nil
}
func (i image) Signatures(context.Context) ([][]byte, error) { return i.signatures, nil }

// world generates the cases.
type world struct {
	t    *testing.T
	r    *rand.Rand
	dir  string
	keys []*openpgp.Entity
	file []string // file with the public key of each
	data [][]byte // public key of each
}

func newWorld(t *testing.T) *world {
	logrus.SetOutput(io.Discard) // the oracle logs unsupported requirements
	w := &world{t: t, r: rand.New(rand.NewSource(seed)), dir: t.TempDir()}
	for i := range 4 {
		key, err := openpgp.NewEntity(fmt.Sprintf("key %d", i), "", "k@example.com", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA, DefaultHash: crypto.SHA256})
		if err == nil && i == unsupported {
			key, err = dsaKey()
		}
		if err != nil {
			t.Fatal(err)
		}
		var public bytes.Buffer
		if err := key.Serialize(&public); err != nil {
			t.Fatal(err)
		}
		w.keys, w.data = append(w.keys, key), append(w.data, public.Bytes())
		w.file = append(w.file, filepath.Join(w.dir, fmt.Sprintf("key%d.gpg", i)))
		if err := os.WriteFile(w.file[i], public.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.Intn(len(from))] }

// chance returns true with a probability of 1/n.
func (w *world) chance(n int) bool { return w.r.Intn(n) == 0 }

var (
	hosts = []string{"registry.example.com", "registry.example.com:5000", "localhost", "localhost:5000", "10.0.0.1:80", "docker.io", "a.b.c.example.com:443", "HOST.example.com"}
	paths = []string{"app", "team/app", "team/sub/app", "library/busybox", "busybox", "a__b/c-d", "x"}
	names = []string{"busybox", "team/app", "index.docker.io/busybox", "docker.io/library/busybox", "localhost/app"}
)

// name returns a repository. There are few, so that references often match.
func (w *world) name() string {
	if w.chance(4) {
		return pick(w.r, names...)
	}
	return pick(w.r, hosts[:4]...) + "/" + pick(w.r, paths[:4]...)
}

func (w *world) anyName() string {
	if w.chance(3) {
		return w.name()
	}
	return pick(w.r, hosts...) + "/" + pick(w.r, paths...)
}

func (w *world) tag() string { return pick(w.r, "1", "1", "1", "latest", "v2.0") }

// signedReference returns a reference for a signature: similar to the pulled one, or invalid.
func (w *world) signedReference(pulled string) string {
	name, _, _ := strings.Cut(pulled, "@")
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name = name[:i]
	}
	switch w.r.Intn(12) {
	case 0, 1, 2, 3, 4:
		return pulled
	case 5:
		return name + ":" + w.tag()
	case 6:
		return name
	case 7:
		return w.anyName() + ":" + w.tag()
	case 8:
		return pick(w.r, names...) + ":1"
	case 9:
		return name + ":1@" + string(digest.FromString("other"))
	case 10:
		return pick(w.r, "UPPER/app:1", "-/:", "a//b:1", "[::1]:5000/app:1", "Foo/bar:1", "host:port/x:1", strings.Repeat("a", 64), "example.com/"+strings.Repeat("a/", 125)+"a:1", "app:", "app@sha256:00")
	}
	return strings.TrimPrefix(pulled, "docker.io/library/")
}

// claim returns the payload of a signature.
func (w *world) claim(reference string, manifest []byte) []byte {
	d := digest.FromBytes(manifest)
	switch w.r.Intn(14) {
	case 0:
		d = digest.FromString("another")
	case 1:
		d = digest.SHA512.FromBytes(manifest)
	}
	optional := pick(w.r, `{}`, `{"creator":"test","timestamp":1700000000}`, `{"timestamp":1700000000.5}`, `{"timestamp":1.7e9}`, `{"other":[1,{"a":null}]}`)
	ref, _ := json.Marshal(reference)
	return []byte(`{"critical":{"type":"atomic container signature","image":{"docker-manifest-digest":"` + string(d) + `"},"identity":{"docker-reference":` + string(ref) + `}},"optional":` + optional + `}`)
}

func (w *world) sign(payload []byte) []byte {
	var out bytes.Buffer
	in, err := openpgp.Sign(&out, w.keys[w.r.Intn(len(w.keys))], nil, &packet.Config{DefaultHash: crypto.SHA256})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := in.Write(payload); err != nil {
		w.t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		w.t.Fatal(err)
	}
	if w.chance(20) {
		out.Bytes()[out.Len()-3] ^= 0xff
	}
	return out.Bytes()
}

type object = map[string]any

// identity returns a signedIdentity, or nil for none.
func (w *world) identity(pulled string) object {
	near := w.signedReference(pulled)
	switch w.r.Intn(8) {
	case 0:
		return object{"type": "matchExact"}
	case 1:
		return object{"type": "matchRepoDigestOrExact"}
	case 2:
		return object{"type": "matchRepository"}
	case 3:
		return object{"type": "exactReference", "dockerReference": near}
	case 4:
		return object{"type": "exactRepository", "dockerRepository": near}
	case 5, 6:
		prefix := pick(w.r, "registry.example.com", "registry.example.com/team", "localhost:5000", "docker.io", "docker.io/library", w.anyName(), "Foo", "team/app", "a b")
		return object{"type": "remapIdentity", "prefix": prefix, "signedPrefix": pick(w.r, "registry.example.com", "localhost:5000/team", "docker.io", "docker.io/library", w.anyName(), "short", "busybox")}
	}
	return nil
}

func (w *world) requirement(pulled string) object {
	switch w.r.Intn(16) {
	case 0:
		return object{"type": "insecureAcceptAnything"}
	case 1:
		return object{"type": "reject"}
	case 2:
		if w.chance(3) {
			return object{"type": "signedBaseLayer", "baseLayerIdentity": object{"type": "matchExact"}}
		}
	}
	r := object{"type": "signedBy", "keyType": "GPGKeys"}
	if w.chance(30) {
		r["keyType"] = pick(w.r, "signedByGPGKeys", "X509Certificates", "signedByX509CAs", "other")
	}
	if identity := w.identity(pulled); identity != nil {
		r["signedIdentity"] = identity
	}
	i, j := w.r.Intn(len(w.keys)), w.r.Intn(len(w.keys))
	switch w.r.Intn(7) {
	case 0:
		r["keyPath"] = w.file[i]
	case 1:
		r["keyPaths"] = []string{w.file[i], w.file[j]}
	case 2:
		r["keyData"] = append(bytes.Clone(w.data[i]), w.data[j]...)
	case 3:
		r["keyPaths"] = pick(w.r, []string{}, []string{w.file[i], filepath.Join(w.dir, "absent")}, w.file)
	case 4:
		r["keyData"] = pick(w.r, []byte{}, []byte("rubbish"), w.data[i], w.data[i])
	default:
		r["keyData"] = slices.Concat(w.data...)
	}
	return r
}

func (w *world) requirements(pulled string) []object {
	list := []object{w.requirement(pulled)}
	for w.chance(4) {
		list = append(list, w.requirement(pulled))
	}
	return list
}

// policy returns a policy with scopes that are likely to match the pulled reference.
func (w *world) policy(pulled string) object {
	p := object{"default": w.requirements(pulled)}
	if w.chance(3) {
		return p
	}
	scopes := object{}
	for range w.r.Intn(4) {
		scopes[w.scope(pulled)] = w.requirements(pulled)
	}
	transports := object{"docker": scopes}
	if w.chance(5) {
		scope := pick(w.r, "", "/a", "a", "/", "/a/", "example.com/ns", "a/b/c/d", "sha256:"+strings.Repeat("0", 64))
		transports[pick(w.r, "dir", "oci", "oci-archive", "docker-archive", "tarball", "sif", "atomic", "strange")] = object{scope: w.requirements(pulled)}
	}
	p["transports"] = transports
	return p
}

func (w *world) scope(pulled string) string {
	full := pulled
	if ref, err := docker.ParseReference("//" + pulled); err == nil {
		full = ref.PolicyConfigurationIdentity()
	}
	host, _, _ := strings.Cut(full, "/")
	bare, _, _ := strings.Cut(host, ":")
	_, parent, _ := strings.Cut(bare, ".")
	parts := strings.Split(full, "/")
	return pick(w.r, full, full[:max(0, strings.LastIndexAny(full, ":@"))], host, bare, "*."+parent, "*."+bare, "", "*", strings.Join(parts[:1+w.r.Intn(len(parts))], "/"), w.name(), pulled)
}

// ask evaluates one case with the oracle (theirs) and with signing/policy (ours).
func ask(t *testing.T, text []byte, pulled string, manifest []byte, signatures [][]byte) (theirs, ours string, verdict policy.Verdict) {
	t.Helper()
	ref, err := docker.ParseReference("//" + pulled)
	if err != nil {
		t.Fatalf("%s: %v", pulled, err)
	}
	theirs = "unreadable"
	if p, err := signature.NewPolicyFromBytes(text); err == nil {
		pc, err := signature.NewPolicyContext(p)
		if err != nil {
			t.Fatal(err)
		}
		allowed, err := pc.IsRunningImageAllowed(t.Context(), image{ref, manifest, signatures})
		theirs = fmt.Sprint(allowed)
		if err := pc.Destroy(); err != nil {
			t.Fatal(err)
		}
		_ = err
	}
	ours = "unreadable"
	if p, err := policy.Parse(text); err == nil {
		p.ReadKeys(os.ReadFile)
		verdict, err = p.Evaluate(t.Context(), policy.Image{Reference: pulled, Manifest: manifest, Signatures: signatures}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		ours = fmt.Sprint(verdict.Accepted)
	}
	return theirs, ours, verdict
}

// TestVerdicts compares verdicts about images with random signatures, under random policies.
func TestVerdicts(t *testing.T) {
	w := newWorld(t)
	counts := map[string]int{}
	for n := range cases {
		manifest := fmt.Appendf(nil, `{"schemaVersion":2,"n":%d}`, n)
		pulled := w.name() + ":" + w.tag()
		switch w.r.Intn(6) {
		case 0:
			pulled = w.name() + "@" + string(digest.FromBytes(manifest))
		case 1:
			pulled = w.anyName()
		}
		var signatures [][]byte
		for range pick(w.r, 0, 1, 1, 1, 1, 2, 3) {
			raw := w.sign(w.claim(w.signedReference(pulled), manifest))
			if _, err := signing.Parse(raw); err == nil { // the server stores no others
				signatures = append(signatures, raw)
			}
		}
		text, err := json.Marshal(w.policy(pulled))
		if err != nil {
			t.Fatal(err)
		}
		theirs, ours, verdict := ask(t, text, pulled, manifest, signatures)
		counts[theirs]++
		unevaluated := slices.ContainsFunc(verdict.Requirements, func(o policy.Outcome) bool { return !o.Evaluated })
		if unevaluated {
			counts["not evaluated, "+theirs]++
		}
		// A case that is not evaluated is not accepted. The oracle may accept it, or reject it for another requirement.
		if theirs != ours && (!unevaluated || ours == "true") {
			t.Errorf("case %d: %s under %s: the oracle has %s, signing/policy %s: %+v", n, pulled, text, theirs, ours, verdict)
		}
	}
	t.Logf("%d cases: %v", cases, counts)
	if counts["not evaluated, true"] < cases/100 {
		t.Errorf("too few cases that only the oracle accepts: %v", counts)
	}
	if counts["true"] < cases/10 || counts["false"] < cases/10 || counts["unreadable"] == 0 {
		t.Errorf("too few cases with some result: %v", counts)
	}
}

// TestReading compares the parsing of policies whose text was changed.
func TestReading(t *testing.T) {
	w := newWorld(t)
	counts := map[string]int{}
	for n := range mutants {
		pulled := w.name() + ":1"
		mutant := w.mutate(w.readable(pulled))
		theirs, ours, _ := ask(t, []byte(mutant), pulled, []byte("{}"), nil)
		counts[theirs]++
		if theirs != ours {
			t.Errorf("case %d: %s: the oracle has %s, signing/policy %s", n, mutant, theirs, ours)
		}
	}
	t.Logf("%d texts: %v", mutants, counts)
	if counts["unreadable"] < mutants/10 || counts["unreadable"] > mutants*9/10 {
		t.Errorf("too few texts with some result: %v", counts)
	}
}

// readable returns a policy that the oracle can parse.
func (w *world) readable(pulled string) string {
	for {
		text, err := json.Marshal(w.policy(pulled))
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := signature.NewPolicyFromBytes(text); err == nil {
			return string(text)
		}
	}
}

// changes are replacements in the text of a policy: from, to.
var changes = [][2]string{
	{`"type":`, `"Type":`}, {`"keyType":"GPGKeys",`, ``}, {`"GPGKeys"`, `null`}, {`"type":"reject"`, `"type":"reject","type":"reject"`},
	{`"type":"reject"`, `"type":null`}, {`"type":"matchExact"`, `"type":"matchExact","x":1`}, {`"default":`, `"defaults":`}, {`{"type":"reject"}`, `null`},
	{`"default":[`, `"default":[],"x":[`}, {`}`, `},`}, {`]`, `,null]`}, {`"transports":{`, `"transports":null,"y":{`}, {`"signedIdentity":{`, `"signedIdentity":null,"z":{`},
	{`"keyData":"`, `"keyData":"!`}, {`"keyData":"`, `"keyPath":"/x","keyData":"`}, {`"docker":{`, `"docker":null,"dir":{`}, {`"docker":{`, `"docker":[],"dir":{`},
	{`"docker":{`, `"docker":{},"docker":{`}, {`"dockerReference":`, `"dockerRepository":`}, {`"dockerReference":"`, `"dockerReference":"A/`}, {`"signedPrefix":"`, `"signedPrefix":"/`},
	{`"prefix":"`, `"prefix":7,"q":"`}, {`:`, `: `}, {`{`, ` { `}, {`"insecureAcceptAnything"`, `"insecure\u0041cceptAnything"`}, {`"keyPaths":[`, `"keyPaths":[1,`},
	{`{"default"`, `x{"default"`}, {`{"default"`, `[{"default"`}, {`{"default"`, `{"":{},"default"`}, {`"keyPath":"`, `"keyPath":"","p":"`}, {`"keyPaths":[`, `"keyPaths":null,"p":[`},
}

// mutate replaces one occurrence of something in a text. Some changes preserve the meaning.
func (w *world) mutate(text string) string {
	for range 20 {
		change := pick(w.r, changes...)
		if count := strings.Count(text, change[0]); count > 0 {
			at := w.r.Intn(count)
			parts := strings.SplitN(text, change[0], at+2)
			return strings.Join(parts[:at+1], change[0]) + change[1] + parts[at+1]
		}
	}
	return text[:w.r.Intn(len(text))]
}
