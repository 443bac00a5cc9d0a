package integration

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// signer is a user of cosign with a key pair, without a transparency log and a timestamp service.
type signer struct{ *pinned }

// newSigner creates a signer and logs in to the server.
func newSigner(t *testing.T, s *server) signer {
	t.Helper()
	c := signer{newPinned(t, "cosign", s)}
	c.env = append(c.env, "COSIGN_PASSWORD=secret")
	c.must(t, "generate-key-pair")
	c.must(t, "generate-key-pair", "--output-key-prefix", "stranger")
	c.must(t, "login", "--username", "admin", "--password", adminPassword, s.host)
	return c
}

// legacy selects the older form of signatures, which are stored under tags. By default they are bundles, which are
// referrers.
const legacy = "--new-bundle-format=false"

// offline has the options with which sign and attest use no online services.
func offline(verb string, options ...string) []string {
	return append([]string{verb, "--yes", "--key", "cosign.key", "--use-signing-config=false", "--tlog-upload=false"}, options...)
}

// checked returns the options with which the verify commands use no online services. The key is the signer's, "cosign",
// or that of a "stranger".
func checked(verb, key string, options ...string) []string {
	return append([]string{verb, "--key", key + ".pub", "--insecure-ignore-tlog"}, options...)
}

// verifies checks that both forms of an image's signature are found and verify with the signer's key, and with no
// other.
func (c signer) verifies(t *testing.T, reference, digest string) {
	t.Helper()
	// If cosign finds no bundle, it uses the older form. The type in its output shows which form it found.
	for form, kind := range map[string]string{legacy: "cosign container image signature", "--new-bundle-format": "https://sigstore.dev/cosign/sign/v1"} {
		said := c.must(t, checked("verify", "cosign", form, reference)...)
		if !strings.Contains(said, `"docker-manifest-digest":"`+digest+`"`) || !strings.Contains(said, `"type":"`+kind+`"`) {
			t.Errorf("output of cosign verify %s %s: %s", form, reference, said)
		}
		c.refused(t, "signature", checked("verify", "stranger", form, reference)...)
	}
}

// TestCosign makes signatures and attestations in both forms of cosign, copies an image with them, signs it with a
// signing service too, and cleans up.
func TestCosign(t *testing.T) {
	t.Parallel()
	trusted := keyNamed(t, "trusted")
	s := startServer(t, trusted.env())
	cosign := newSigner(t, s)
	content := image(t, "amd64", "cosign")
	asAdmin(t, s).push(t, ociLayout(t, content), "cosign/app:1.0")
	digest := digestOf(t, content)
	app, exact := s.host+"/cosign/app:1.0", s.host+"/cosign/app@"+digest

	cosign.refused(t, "no signatures found", checked("verify", "cosign", app)...)
	cosign.must(t, "login", "--username", "admin", "--password", "wrong", s.host) // it does not check the password
	cosign.refused(t, "Invalid username/password.", offline("sign", exact)...)
	cosign.must(t, "login", "--username", "admin", "--password", adminPassword, s.host)

	predicate, sbom := cosign.file(t, "predicate.json", `{"tests": "passed"}`), cosign.file(t, "sbom.json", `{"spdxVersion": "SPDX-2.3"}`)
	for _, form := range []string{legacy, "--new-bundle-format"} {
		cosign.must(t, offline("sign", form, exact)...)
		cosign.must(t, offline("attest", form, "--type", "custom", "--predicate", predicate, exact)...)
		if said := cosign.must(t, checked("verify-attestation", "cosign", form, "--type", "custom", app)...); !strings.Contains(said, "application/vnd.in-toto+json") {
			t.Errorf("output of cosign verify-attestation %s: %s", form, said)
		}
		cosign.refused(t, "signature", checked("verify-attestation", "stranger", form, "--type", "custom", app)...)
	}
	cosign.must(t, "attach", "sbom", "--type", "spdx", "--input-format", "json", "--sbom", sbom, exact)
	cosign.verifies(t, app, digest)
	if got := cosign.must(t, "download", "sbom", app); strings.TrimSpace(got) != cosign.read(t, sbom) {
		t.Errorf("the SBOM comes as %s", got)
	}
	companion := "sha256-" + strings.TrimPrefix(digest, "sha256:")
	if got := cosign.line(t, "triangulate", app); got != s.host+"/cosign/app:"+companion+".sig" {
		t.Errorf("the signature is at %s", got)
	}
	shownAs(t, s, "cosign/app", digest, companion)

	t.Run("copy", func(t *testing.T) {
		cosign.must(t, "copy", app, s.host+"/cosign/copied:1.0")
		for _, kind := range []string{".sig", ".att", ".sbom"} {
			if s.rawManifest(t, "cosign/copied", companion+kind) != s.rawManifest(t, "cosign/app", companion+kind) {
				t.Errorf("the copy's %s is another", kind)
			}
		}
		cosign.must(t, checked("verify", "cosign", legacy, s.host+"/cosign/copied:1.0")...)
		// cosign does not copy referrers; oras copies them and no tags.
		oras := newPinned(t, "oras", s)
		oras.must(t, "login", "--username", "admin", "--password", adminPassword, s.host)
		oras.must(t, "cp", "-r", app, s.host+"/cosign/copied:1.0")
		cosign.verifies(t, s.host+"/cosign/copied:1.0", digest)
	})
	t.Run("save and load", func(t *testing.T) {
		cosign.must(t, "save", "--dir", "saved", app)
		cosign.must(t, "load", "--dir", "saved", s.host+"/cosign/loaded:1.0")
		cosign.must(t, checked("verify", "cosign", legacy, s.host+"/cosign/loaded:1.0")...)
	})
	t.Run("signed by us too", func(t *testing.T) {
		repository := text(s.repository(t, "cosign/app")["pulp_href"])
		version := s.signed(t, repository, object{"manifest_signing_service": s.addService(t, "trusted", trusted, "")})
		if added := count(version, "added", "container.signature"); added != 1 || len(s.signatures(t, "cosign/app", digest)) != 1 {
			t.Errorf("%d signatures, want one of the image and none of the artifacts of cosign", added)
		}
		cosign.verifies(t, app, digest)
	})
	t.Run("index", func(t *testing.T) {
		asAdmin(t, s).push(t, ociLayout(t, index(t, "cosign", "amd64", "arm64")), "cosign/multi:1.0")
		list := s.digest(t, "cosign/multi", "1.0")
		multi := s.host + "/cosign/multi@" + list
		for _, form := range []string{legacy, "--new-bundle-format"} {
			cosign.must(t, offline("sign", form, "--recursive", multi)...)
		}
		inside, err := v1.ParseIndexManifest(strings.NewReader(s.rawManifest(t, "cosign/multi", list)))
		if err != nil || len(inside.Manifests) != 2 {
			t.Fatalf("the index is %v (%v)", inside, err)
		}
		cosign.verifies(t, multi, list)
		for _, child := range inside.Manifests {
			cosign.verifies(t, s.host+"/cosign/multi@"+child.Digest.String(), child.Digest.String())
		}
	})
	t.Run("clean", func(t *testing.T) {
		cosign.must(t, "clean", "--force", app)
		if tags := tagsOf(t, "http://"+s.host, "cosign/app", ""); !slices.Equal(tags, []string{"1.0"}) {
			t.Errorf("cosign clean leaves %q", tags)
		}
		for _, form := range []string{legacy, "--new-bundle-format"} {
			cosign.refused(t, "no signatures found", checked("verify", "cosign", form, app)...)
		}
	})
	s.versionsAreComplete(t, text(s.repository(t, "cosign/app")["pulp_href"]))
}

// shownAs checks the types that the REST API shows for the artifacts of cosign: three tags, and two bundles that are
// referrers.
func shownAs(t *testing.T, s *server, repository, digest, companion string) {
	t.Helper()
	for suffix, want := range map[string]string{".sig": "cosign_signature", ".att": "cosign_attestation", ".sbom": "cosign_sbom"} {
		if got := s.manifestIn(t, repository, s.digest(t, repository, companion+suffix))["type"]; got != want {
			t.Errorf("%s is shown as %v, want %s", suffix, got, want)
		}
	}
	var referrers struct {
		Manifests []descriptor `json:"manifests"`
	}
	s.call(t, http.MethodGet, "/v2/"+repository+"/referrers/"+digest, nil, http.StatusOK, &referrers)
	if len(referrers.Manifests) != 2 {
		t.Errorf("%d manifests refer to the image, want a signature and an attestation: %v", len(referrers.Manifests), referrers.Manifests)
	}
	for _, bundle := range referrers.Manifests {
		if got := s.manifestIn(t, repository, bundle.Digest)["type"]; got != "cosign_attestation_bundle" {
			t.Errorf("the bundle %s is shown as %v", bundle.Digest, got)
		}
	}
	version := s.get(t, text(s.repository(t, repository)["latest_version_href"]))
	if manifests, tags := count(version, "present", "container.manifest"), count(version, "present", "container.tag"); manifests != 6 || tags != 4 {
		t.Errorf("%d manifests and %d tags, want an image and five that cosign made, and four tags", manifests, tags)
	}
}

// TestCosignSignaturesAreMirrored syncs one tag of a registry without a referrers API, which stores both forms under
// tags. They are synced although the filter matches only the tag of the image, and the referrers API lists the bundle
// here.
func TestCosignSignaturesAreMirrored(t *testing.T) {
	t.Parallel()
	source := startPeer(t)
	s := startServer(t, allowLoopback)
	cosign := newSigner(t, s)
	content := image(t, "amd64", "cosign")
	copyTo(t, source, "app:1.0", content)
	copyTo(t, source, "app:2.0", image(t, "amd64", "another"))
	exact := strings.TrimPrefix(source, "http://") + "/app@" + digestOf(t, content)
	for _, form := range []string{legacy, "--new-bundle-format"} {
		cosign.must(t, offline("sign", form, exact)...)
	}
	remote := s.make(t, remotes, object{"name": "app", "url": source, "upstream_name": "app", "include_tags": []string{"1.0"}})
	repository := s.make(t, containerRepos, object{"name": "app", "remote": remote})
	s.act(t, repository+"sync/", object{})
	s.distribute(t, "mirror/app", object{"repository": repository})
	cosign.verifies(t, s.host+"/mirror/app:1.0", digestOf(t, content))
	companion := "sha256-" + strings.TrimPrefix(digestOf(t, content), "sha256:")
	if tags := tagsOf(t, "http://"+s.host, "mirror/app", ""); !slices.Equal(tags, []string{"1.0", companion, companion + ".sig"}) {
		t.Errorf("the mirror has %q", tags)
	}
	// With signed_only, a sync includes an image whose only signature is a bundle, and skips an unsigned image.
	bundled := image(t, "amd64", "bundled")
	copyTo(t, source, "app:3.0", bundled)
	cosign.must(t, offline("sign", "--new-bundle-format", strings.TrimPrefix(source, "http://")+"/app@"+digestOf(t, bundled))...)
	all := s.make(t, remotes, object{"name": "all", "url": source, "upstream_name": "app", "includes": []string{}})
	signed := s.make(t, containerRepos, object{"name": "signed", "remote": all})
	s.act(t, signed+"sync/", object{"signed_only": true, "mirror": true})
	s.distribute(t, "signed/app", object{"repository": signed})
	other := "sha256-" + strings.TrimPrefix(digestOf(t, bundled), "sha256:")
	want := []string{"1.0", "3.0", companion, companion + ".sig", other}
	slices.Sort(want)
	if tags := tagsOf(t, "http://"+s.host, "signed/app", ""); !slices.Equal(tags, want) {
		t.Errorf("the mirror of signed images has %q, want %q", tags, want)
	}
	cosign.verifies(t, s.host+"/signed/app:1.0", digestOf(t, content))
	cosign.must(t, checked("verify", "cosign", "--new-bundle-format", s.host+"/signed/app:3.0")...)
}
