package integration

import (
	"encoding/json"
	"encoding/xml"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// verdict is what the conformance suite says of one of its tests. Several have the same name.
type verdict struct {
	Name   string `xml:"name,attr"`
	Status string `xml:"status,attr"`
	Said   string `xml:"system-out"`
	Log    string `xml:"system-err"` // the requests and answers
}

// conformance runs the OCI conformance suite, with what it leaves to choice, and returns what it says of each of its tests.
func conformance(t *testing.T, suite, bin, host string) []verdict {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "bash", suite, host, "admin", adminPassword)
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "OCI_CONFORMANCE_BIN="+bin, "OCI_RESULTS_DIR="+dir, "OCI_API_MANIFESTS_TAG_PARAM=true",
		"OCI_API_BLOBS_UPLOAD_CANCEL=true", "OCI_API_BLOBS_DIGEST_HEADER=true", "OCI_API_MANIFESTS_DIGEST_HEADER=true")
	out, ended := cmd.CombinedOutput() // how it ended says only that something failed
	text, err := os.ReadFile(filepath.Join(dir, "junit.xml"))
	if err != nil {
		t.Fatalf("the suite left no results: %v, %v\n%s", ended, err, out)
	}
	var results struct {
		Suites []struct {
			Cases []verdict `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &results); err != nil {
		t.Fatal(err)
	}
	var all []verdict
	for _, s := range results.Suites {
		all = append(all, s.Cases...)
	}
	if len(all) < 100 {
		t.Fatalf("the suite ran %d tests only: %v\n%s", len(all), ended, out)
	}
	for i := range all {
		all[i].Name = strings.TrimPrefix(all[i].Name, "OCI Conformance Test/")
	}
	return all
}

// What distribution 3.1.2 does not keep, and what follows from that in the suite.
const (
	noSHA512    = "distribution takes a manifest under its sha256 only"
	afterSHA512 = "it asks for what a push under sha512 would have left"
	keptSHA512  = "the manifests came under their tags instead, and name the blobs; the suite removes only what is under sha512"
	noURLs      = "distribution takes layers at other URLs only where its configuration allows these URLs"
	afterURLs   = "it asks for the image that was refused for its layers' URLs"
)

// sha512Exceptions are the suite's tests that cannot pass in front of any distribution 3.1.2, and why.
var sha512Exceptions = map[string]string{
	"sha512/push/manifest-by-digest":                noSHA512,
	"sha512/head/manifest-head-by-digest":           afterSHA512,
	"sha512/pull/manifest-by-digest":                afterSHA512,
	"tag-param-sha512/push/manifest-by-digest":      noSHA512,
	"tag-param-sha512/push/manifest-by-tag":         noSHA512,
	"tag-param-sha512/head/manifest-head-by-digest": afterSHA512,
	"tag-param-sha512/head/manifest-head-by-tag":    afterSHA512,
	"tag-param-sha512/pull/manifest-by-digest":      afterSHA512,
	"tag-param-sha512/pull/manifest-by-tag":         afterSHA512,
	"tag-param-sha512/delete/blob-delete":           keptSHA512,
}

// strictExceptions are those that cannot pass beside them in front of one with its stock configuration.
var strictExceptions = map[string]string{
	"tag-param-sha512/tag-list":                             "its indexes name manifests under sha512, which are not there",
	"non-distributable-layers/push/manifest-by-digest":      noURLs,
	"non-distributable-layers/push/manifest-by-tag":         noURLs,
	"non-distributable-layers/tag-list":                     afterURLs,
	"non-distributable-layers/head/manifest-head-by-digest": afterURLs,
	"non-distributable-layers/head/manifest-head-by-tag":    afterURLs,
	"non-distributable-layers/pull/manifest-by-digest":      afterURLs,
	"non-distributable-layers/pull/manifest-by-tag":         afterURLs,
}

// answered finds the status of each answer in a test's log.
var answered = regexp.MustCompile(`(?s)~~~ RESPONSE ~~~\s+Status: (\d+)(.*?)={20}`)

// TestUpstreamConformance runs the conformance suite in front of bare distribution. What that upstream cannot keep is refused with a 400 that names the
// upstream; everything else passes, referrers among it.
func TestUpstreamConformance(t *testing.T) {
	t.Parallel()
	suite := conformanceSuite(t)
	bin := filepath.Join(t.TempDir(), "conformance")
	strict := maps.Clone(sha512Exceptions)
	maps.Copy(strict, strictExceptions)
	for title, c := range map[string]struct {
		options    []string
		exceptions map[string]string
	}{
		"as it comes":   {nil, strict},
		"allowing URLs": {[]string{"-lenient"}, sha512Exceptions},
	} {
		t.Run(title, func(t *testing.T) {
			s := newPeer(t, c.options...).inFront(t)
			failed := map[string]bool{}
			for _, v := range conformance(t, suite, bin, s.host) {
				if v.Status == "passed" {
					continue
				}
				failed[v.Name] = true
				if _, excepted := c.exceptions[v.Name]; !excepted {
					t.Errorf("%s: %s\n%s\n%s", v.Name, v.Status, v.Said, v.Log)
				}
				if strings.Contains(v.Name, "/push/") {
					namesUpstream(t, v)
				}
			}
			for _, name := range slices.Sorted(maps.Keys(c.exceptions)) {
				if !failed[name] {
					t.Errorf("%s passes now; it was excepted because %s", name, c.exceptions[name])
				}
			}
		})
	}
}

// namesUpstream demands that a push which was refused was refused with a 400 whose message names the upstream.
func namesUpstream(t *testing.T, v verdict) {
	t.Helper()
	for _, answer := range answered.FindAllStringSubmatch(v.Log, -1) {
		if answer[1] >= "300" && (answer[1] != "400" || !strings.Contains(answer[2], "upstream registry")) {
			t.Errorf("%s: %s, want 400 and the upstream named:%s", v.Name, answer[1], answer[2])
		}
	}
}

// TestUpstreamSparseIndex pushes an index whose manifests are not there: it is the upstream that refuses it, and the answer says so.
func TestUpstreamSparseIndex(t *testing.T) {
	t.Parallel()
	absent := describe(ociManifest, []byte(`{"schemaVersion":2}`))
	const ociIndex = "application/vnd.oci.image.index.v1+json"
	sparse, err := json.Marshal(object{"schemaVersion": 2, "mediaType": ociIndex, "manifests": []descriptor{absent}})
	if err != nil {
		t.Fatal(err)
	}
	push := func(s *server) (int, string) {
		status, _, said := s.do(t, http.MethodPut, "/v2/test/sparse/manifests/v1", http.Header{"Content-Type": {ociIndex}}, sparse)
		return status, string(said)
	}
	strict := newPeer(t).inFront(t)
	if status, said := push(strict); status != http.StatusBadRequest || !strings.Contains(said, "upstream registry") {
		t.Errorf("PUT: %d %s, want 400 and the upstream named", status, said)
	}
	if status, _, said := strict.do(t, http.MethodGet, "/v2/test/sparse/tags/list", nil, nil); status == http.StatusOK && strings.Contains(string(said), "v1") {
		t.Errorf("the tags after a push that was refused: %s", said)
	}
	p := newPeer(t, "-lenient")
	s := p.inFront(t)
	if status, said := push(s); status != http.StatusCreated {
		t.Fatalf("PUT in front of one that takes it: %d %s", status, said)
	}
	within(t, "the upstream shows the tag", func() bool { return slices.Equal(tagsOf(t, "http://"+p.address, "test/sparse", ""), []string{"v1"}) })
	if status, _, got := s.do(t, http.MethodGet, "/v2/test/sparse/manifests/v1", nil, nil); status != http.StatusOK || string(got) != string(sparse) {
		t.Errorf("GET: %d %s", status, got)
	}
}
