package integration

import (
	"encoding/json"
	"encoding/xml"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// verdict is the result of one test of the conformance suite. Several tests have the same name.
type verdict struct {
	Name   string `xml:"name,attr"`
	Status string `xml:"status,attr"`
	Output string `xml:"system-out"`
	Log    string `xml:"system-err"` // the requests and answers
}

// conformance runs the OCI conformance suite with all optional tests and returns the result of each test.
func conformance(t *testing.T, host string) []verdict {
	t.Helper()
	dir := t.TempDir()
	out, ended := runConformance(t, host, dir)
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

// The reasons why tests of the suite cannot pass in front of distribution 3.1.2.
const (
	noSHA512    = "distribution stores manifests under their sha256 digest only"
	afterSHA512 = "it requests a manifest that an earlier, refused push under sha512 should have stored"
	keptSHA512  = "the manifests were stored under their tags and refer to the blobs; the suite deletes only manifests under sha512"
	noURLs      = "distribution accepts layers with URLs only if its configuration allows these URLs"
	afterURLs   = "it requests the image that was refused because of its layers' URLs"
)

// sha512Exceptions are the suite's tests that fail in front of any distribution 3.1.2, with the reasons.
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

// strictExceptions are the tests that also fail in front of one with its default configuration.
var strictExceptions = map[string]string{
	"tag-param-sha512/tag-list":                             "its indexes refer to manifests under sha512, which are absent",
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

// TestUpstreamConformance runs the conformance suite in front of the registry distribution. Content that this upstream
// cannot store is refused with a 400 that names the upstream. All other tests pass, those of referrers included.
func TestUpstreamConformance(t *testing.T) {
	t.Parallel()
	strict := maps.Clone(sha512Exceptions)
	maps.Copy(strict, strictExceptions)
	for title, c := range map[string]struct {
		options    []string
		exceptions map[string]string
	}{
		"default configuration": {exceptions: strict},
		"allowing URLs":         {options: []string{"-lenient"}, exceptions: sha512Exceptions},
	} {
		t.Run(title, func(t *testing.T) {
			s := newPeer(t, c.options...).inFront(t)
			failed := map[string]bool{}
			for _, v := range conformance(t, s.host) {
				if v.Status == "passed" {
					continue
				}
				failed[v.Name] = true
				if _, excepted := c.exceptions[v.Name]; !excepted {
					t.Errorf("%s: %s\n%s\n%s", v.Name, v.Status, v.Output, v.Log)
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

// namesUpstream checks that each refused push was refused with a 400 whose message names the upstream.
func namesUpstream(t *testing.T, v verdict) {
	t.Helper()
	for _, answer := range answered.FindAllStringSubmatch(v.Log, -1) {
		if answer[1] >= "300" && (answer[1] != "400" || !strings.Contains(answer[2], "upstream registry")) {
			t.Errorf("%s: %s, want 400 and a message that names the upstream:%s", v.Name, answer[1], answer[2])
		}
	}
}

// TestUpstreamSparseIndex pushes an index whose manifests are absent: the upstream refuses it, and the answer says so.
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
		t.Errorf("PUT: %d %s, want 400 and a message that names the upstream", status, said)
	}
	if status, _, said := strict.do(t, http.MethodGet, "/v2/test/sparse/tags/list", nil, nil); status == http.StatusOK && strings.Contains(string(said), "v1") {
		t.Errorf("the tags after a refused push: %s", said)
	}
	p := newPeer(t, "-lenient")
	s := p.inFront(t)
	if status, said := push(s); status != http.StatusCreated {
		t.Fatalf("PUT in front of an upstream that accepts it: %d %s", status, said)
	}
	within(t, "the upstream shows the tag", func() bool { return slices.Equal(tagsOf(t, "http://"+p.address, "test/sparse", ""), []string{"v1"}) })
	if status, _, got := s.do(t, http.MethodGet, "/v2/test/sparse/manifests/v1", nil, nil); status != http.StatusOK || string(got) != string(sparse) {
		t.Errorf("GET: %d %s", status, got)
	}
}
