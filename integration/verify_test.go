package integration

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/signing"
)

// verifyCases is the number of generated policies. For each, skopeo and Countersign run once.
const verifyCases = 60

// verifyWorld has the keys of all kinds, and the images with signatures for some references, from which cases are
// drawn.
type verifyWorld struct {
	*server
	r      *rand.Rand
	dir    string
	admin  *containers
	keys   map[string]*key
	names  []string   // names of the keys
	images [][]string // references of each image without the host: a tag, then the digest
}

// signFor uploads a signature of an image by a key, for a reference.
func (w *verifyWorld) signFor(t *testing.T, k *key, name string, d digest.Digest, reference string, options ...string) {
	t.Helper()
	payload, err := signing.EncodeClaim(signing.Claim{ManifestDigest: d, DockerReference: reference})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	in, out := write(t, filepath.Join(dir, "claim"), string(payload), 0o600), filepath.Join(dir, "signature")
	k.run(t, append(options, "--passphrase", "", "--output", out, "--sign", in)...)
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	w.call(t, http.MethodPut, "/extensions/v2/"+name+"/signatures/"+string(d), signature{2, signing.Name(d, raw), "atomic", raw}, http.StatusCreated, nil)
}

func newVerifyWorld(t *testing.T) *verifyWorld {
	t.Helper()
	s := startServer(t)
	w := &verifyWorld{server: s, r: rand.New(rand.NewSource(40)), dir: t.TempDir(), admin: asAdmin(t, s), keys: map[string]*key{}}
	const past, then = "20200101T000000", "20200601T000000"
	made := func(name, expires string, options ...string) *key {
		k := keyHome(t)
		k.run(t, append(options, "--passphrase", "", "--quick-generate-key", name+"@example.com", "ed25519", "sign", expires)...)
		for line := range strings.Lines(k.run(t, "--with-colons", "--list-keys")) {
			if fields := strings.Split(line, ":"); fields[0] == "fpr" {
				k.fingerprint = fields[9]
			}
		}
		return k
	}
	for name, k := range map[string]*key{
		"trusted": keyNamed(t, "trusted"), "stranger": keyNamed(t, "stranger"), "plain": made("plain", "never"), "revoked": made("revoked", "never"),
		"expired": made("expired", "1y", "--faked-system-time", past),
	} {
		own := *k // some keys are shared between tests
		w.keys[name] = &own
	}
	w.names = []string{"trusted", "stranger", "plain", "revoked", "expired"}
	service := s.addService(t, "svc", w.keys["trusted"], "")

	add := func(tag string, d digest.Digest) {
		w.images = append(w.images, []string{"acme/app:" + tag, "acme/app@" + string(d)})
	}
	push := func(tag string) digest.Digest {
		content := image(t, "amd64", tag)
		w.admin.push(t, ociLayout(t, content), "acme/app:"+tag)
		add(tag, digest.Digest(digestOf(t, content)))
		return digest.Digest(digestOf(t, content))
	}
	host := s.host + "/acme/app:"
	both, other, weak, dead := push("both"), push("other"), push("weak"), push("dead")
	push("none")
	w.signFor(t, w.keys["stranger"], "acme/app", both, host+"both")
	w.signFor(t, w.keys["plain"], "acme/app", other, "elsewhere.example.com/acme/app:other")
	w.signFor(t, w.keys["plain"], "acme/app", other, host+"another")
	w.signFor(t, w.keys["plain"], "acme/app", weak, host+"weak", "--digest-algo", "SHA1")
	w.signFor(t, w.keys["revoked"], "acme/app", dead, host+"dead")
	w.signFor(t, w.keys["expired"], "acme/app", dead, host+"dead", "--faked-system-time", then)
	revoked := w.keys["revoked"]
	certificate, err := os.ReadFile(filepath.Join(revoked.home, "openpgp-revocs.d", revoked.fingerprint+".rev"))
	if err != nil {
		t.Fatal(err)
	}
	revoked.run(t, "--import", write(t, filepath.Join(w.dir, "revocation"), strings.ReplaceAll(string(certificate), ":-----BEGIN", "-----BEGIN"), 0o600))
	for name, k := range w.keys {
		k.public = write(t, filepath.Join(w.dir, name+".asc"), k.run(t, "--armor", "--export", k.fingerprint), 0o600)
	}
	w.images = append(w.images, []string{"acme/app:multi"}) // skopeo and Countersign may choose different images for a list's digest
	w.admin.push(t, ociLayout(t, index(t, "multi", "amd64", "arm64")), "acme/app:multi")
	repository := text(s.repository(t, "acme/app")["pulp_href"])
	s.signed(t, repository, object{"manifest_signing_service": service, "tags_list": []string{"both", "multi"}})
	return w
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.Intn(len(from))] }

// requirement returns a random requirement, which mostly concerns the image. It has file names only if files is true.
func (w *verifyWorld) requirement(t *testing.T, files bool) object {
	t.Helper()
	if w.r.Intn(8) == 0 {
		return object{"type": pick(w.r, "reject", "insecureAcceptAnything")}
	}
	r := object{"type": "signedBy", "keyType": "GPGKeys"}
	first, second := w.keys[pick(w.r, w.names...)], w.keys[pick(w.r, w.names...)]
	one, two := read(t, first.public), read(t, second.public)
	rubbish := write(t, filepath.Join(w.dir, "rubbish"), "no keys here\n", 0o600)
	var all []byte
	for _, name := range w.names {
		all = append(all, read(t, w.keys[name].public)...)
	}
	kind := w.r.Intn(6)
	if !files {
		kind = w.r.Intn(3)
	}
	switch kind {
	case 0:
		r["keyData"] = base64.StdEncoding.EncodeToString(one)
	case 1:
		r["keyData"] = base64.StdEncoding.EncodeToString(append(one, two...))
	case 2, 3:
		r["keyData"] = base64.StdEncoding.EncodeToString(all)
	case 4:
		r["keyPath"] = pick(w.r, first.public, write(t, filepath.Join(w.dir, "all"), string(all), 0o600))
	default:
		r["keyPaths"] = pick(w.r, []string{}, []string{first.public, second.public}, []string{first.public, second.public}, []string{first.public, rubbish}, []string{first.public, filepath.Join(w.dir, "absent")})
	}
	switch w.r.Intn(12) {
	case 0:
		r["signedIdentity"] = object{"type": "matchExact"}
	case 1:
		r["signedIdentity"] = object{"type": "matchRepository"}
	case 2:
		r["signedIdentity"] = object{"type": "exactReference", "dockerReference": pick(w.r, w.host+"/acme/app:both", w.host+"/acme/app:another", "elsewhere.example.com/acme/app:other")}
	case 3:
		r["signedIdentity"] = object{"type": "exactRepository", "dockerRepository": pick(w.r, w.host+"/acme/app", "elsewhere.example.com/acme/app")}
	case 4:
		r["signedIdentity"] = object{"type": "remapIdentity", "prefix": pick(w.r, w.host, w.host+"/acme"), "signedPrefix": pick(w.r, "elsewhere.example.com", w.host+"/other", "elsewhere.example.com/acme")}
	}
	return r
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func (w *verifyWorld) policy(t *testing.T, reference string, files bool) string {
	t.Helper()
	list := func() []object {
		all := []object{w.requirement(t, files)}
		if w.r.Intn(4) == 0 {
			all = append(all, w.requirement(t, files))
		}
		return all
	}
	scopes := object{}
	for range 1 + w.r.Intn(3) {
		scopes[pick(w.r, w.host, w.host+"/acme", w.host+"/acme/app", w.host+"/"+reference, "", "localhost", "*.localhost")] = list()
	}
	made, err := json.Marshal(object{"default": list(), "transports": object{"docker": scopes}})
	if err != nil {
		t.Fatal(err)
	}
	return string(made)
}

// verify runs the command verify and returns its output and exit status.
func (s *server) verify(t *testing.T, arguments ...string) (string, int) {
	t.Helper()
	said, err := s.cli(t, nil, append([]string{"verify"}, arguments...)...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return said, exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return said, 0
}

// TestVerifySaysWhatSkopeoDoes compares the results of `countersign verify` and verify/ for generated policies with
// those of skopeo.
func TestVerifySaysWhatSkopeoDoes(t *testing.T) {
	t.Parallel()
	w := newVerifyWorld(t)
	repository := text(w.repository(t, "acme/app")["pulp_href"])
	accepted := 0
	for n := range verifyCases {
		references := pick(w.r, w.images...)
		reference := pick(w.r, references...)
		files := n%2 == 0 // without files the server can evaluate the policy too
		policy := w.policy(t, reference, files)
		file := write(t, filepath.Join(w.dir, "policy.json"), policy, 0o600)
		said, err := w.admin.pull(t, file, reference, "--override-arch", "amd64")
		if err != nil && !strings.Contains(said, "rejected") {
			t.Fatalf("skopeo could not judge: %v\n%s\n%s", err, said, policy)
		}
		theirs := err == nil
		if theirs {
			accepted++
		}
		ours, status := w.verify(t, "--policy", file, w.host+"/"+reference)
		if theirs != (status == 0) || status > 1 {
			t.Errorf("case %d: %s under %s: skopeo accepts it: %t\n%s\nwe end with %d:\n%s", n, reference, policy, theirs, said, status, ours)
		}
		name, _, _ := strings.Cut(references[0], "@")
		if files {
			continue
		}
		_, tag, _ := strings.Cut(name, ":")
		var answer struct {
			Accepted *bool `json:"accepted"`
		}
		w.call(t, http.MethodPost, repository+"verify/", object{"tag": tag, "reference": w.host + "/" + reference, "policy": json.RawMessage(policy)}, http.StatusOK, &answer)
		if answer.Accepted == nil || *answer.Accepted != theirs {
			t.Errorf("case %d: %s under %s: skopeo accepts it: %t, the server disagrees", n, reference, policy, theirs)
		}
	}
	t.Logf("%d cases, skopeo accepts %d", verifyCases, accepted)
	if accepted < verifyCases/8 || accepted > verifyCases*7/8 {
		t.Errorf("skopeo accepts %d of %d: the cases are too one-sided", accepted, verifyCases)
	}
}

// TestVerifyPrints checks the output and exit status of `countersign verify`, with and without a policy.
func TestVerifyPrints(t *testing.T) {
	t.Parallel()
	w := newVerifyWorld(t)
	trusted, stranger := w.keys["trusted"], w.keys["stranger"]
	policy := func(k *key) string {
		return write(t, filepath.Join(w.dir, k.fingerprint+".json"), fmt.Sprintf(`{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":%q}]}`, k.public), 0o600)
	}
	both := w.host + "/acme/app:both"
	for _, test := range []struct {
		arguments []string
		status    int
		says      []string
	}{
		{[]string{both}, 0, []string{trusted.fingerprint, "svc", "yes", "no: The signature is by another key.", "signed for exactly " + both}},
		{[]string{w.host + "/acme/app:other"}, 1, []string{"elsewhere.example.com/acme/app:other", "NOT signed"}},
		{[]string{w.host + "/acme/app:none"}, 1, []string{"no signatures", "NOT signed"}},
		{[]string{w.host + "/acme/app:multi"}, 0, []string{"list", `image "linux/amd64"`, `image "linux/arm64"`, "signed for exactly"}},
		{[]string{both, "--policy", policy(stranger)}, 0, []string{stranger.fingerprint, "requirement 1, signedBy: accepted for signature", "accepted by"}},
		{[]string{w.host + "/acme/app:other", "--policy", policy(trusted)}, 1, []string{"signedBy: NOT accepted: none of the signatures satisfies it", "NOT accepted by"}},
		{[]string{w.host + "/acme/app:none", "--policy", policy(trusted)}, 1, []string{"a signature is required, and there is none"}},
		{[]string{w.host + "/acme/app:absent"}, 2, []string{"Manifest not found"}},
		{[]string{w.host + "/acme/absent:1"}, 2, []string{"Repository not found"}},
		{[]string{"elsewhere.example.com/acme/app:both"}, 2, []string{"not a reference of this installation", w.host, "COUNTERSIGN_PUBLIC_URL"}},
		{[]string{w.host + "/acme/app"}, 2, []string{"want " + w.host + "/PATH:TAG"}},
		{[]string{both, "--policy", filepath.Join(w.dir, "absent")}, 2, []string{"no such file"}},
		{[]string{both, "--policy", write(t, filepath.Join(w.dir, "bad.json"), `{"defaults":[]}`, 0o600)}, 2, []string{"Not a policy"}},
		{nil, 2, []string{"<ref>"}},
	} {
		said, status := w.verify(t, test.arguments...)
		for _, want := range test.says {
			if !strings.Contains(said, want) {
				t.Errorf("verify %v does not say %q:\n%s", test.arguments, want, said)
			}
		}
		if status != test.status {
			t.Errorf("verify %v ends with %d, want %d:\n%s", test.arguments, status, test.status, said)
		}
	}
}
