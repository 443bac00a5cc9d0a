package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// memory returns a value of the server's /proc status in MiB: VmRSS is its present memory, VmHWM the maximum since the
// last reset.
func (s *server) memory(t *testing.T, line string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(status), line+":")
	fields := strings.Fields(rest)
	if !found || len(fields) == 0 {
		t.Fatalf("/proc has no %s", line)
	}
	kib, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}

// grows checks that the server's memory grows by at most a number of MiB during an operation.
func (s *server) grows(t *testing.T, what string, most int, do func()) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.PID()), []byte("5"), 0o600); err != nil {
		t.Fatal(err) // writing 5 resets VmHWM
	}
	before := s.memory(t, "VmRSS")
	do()
	grown := s.memory(t, "VmHWM") - before
	t.Logf("%s: from %d MiB, %d MiB more", what, before, grown)
	if grown > most {
		t.Errorf("%s takes %d MiB more, want at most %d", what, grown, most)
	}
}

// fetch reads an answer without storing it and returns its length.
func (s *server) fetch(t *testing.T, path string, want int) int64 {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.base.String()+path, nil)
	if err != nil {
		t.Error(err)
		return 0
	}
	r.SetBasicAuth(s.user, s.password)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer func() { _ = res.Body.Close() }()
	n, err := io.Copy(io.Discard, res.Body)
	if err != nil || res.StatusCode != want {
		t.Errorf("GET %.200s: %s, %d bytes, %v; want %d", path, res.Status, n, err, want)
	}
	return n
}

// TestListsTakeLittleMemory lists 60 manifests with 3.5 MiB of annotations each. A list without the annotations takes
// little memory in any order. A list with them sends more than 200 MiB without storing all at the same time. The same
// applies to referrers of one subject.
func TestListsTakeLittleMemory(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	const name, count = "acme/annotated", 60
	subject, err := s.pushTiny(t, name, "subject", "subject")
	if err != nil {
		t.Fatal(err)
	}
	empty := describe("application/vnd.oci.empty.v1+json", []byte("{}"))
	if err := s.created(t, http.MethodPost, "/v2/"+name+"/blobs/uploads/?digest="+empty.Digest, "application/octet-stream", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("annotation ", 3_500_000/11)
	for i := range count {
		content, err := json.Marshal(object{
			"schemaVersion": 2, "mediaType": ociManifest, "artifactType": "application/example", "config": empty, "layers": []descriptor{empty},
			"subject": descriptor{MediaType: ociManifest, Digest: subject.name, Size: 1}, "annotations": map[string]string{"long": long, "number": strconv.Itoa(i)},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.created(t, http.MethodPut, "/v2/"+name+"/manifests/"+describe(ociManifest, content).Digest, ociManifest, content); err != nil {
			t.Fatal(err)
		}
	}
	manifests := "/pulp/api/v3/content/container/manifests/?limit=100"
	for _, query := range []string{"&fields=digest", "&exclude_fields=annotations,labels", "&fields=digest&ordering=architecture,-os", "&fields=pulp_href,blobs"} {
		s.grows(t, query, 100, func() {
			if n := s.fetch(t, manifests+query, http.StatusOK); n > 100_000 {
				t.Errorf("%s: %d bytes", query, n)
			}
		})
	}
	s.grows(t, "all fields", 150, func() {
		if n := s.fetch(t, manifests, http.StatusOK); n < count*int64(len(long)) {
			t.Errorf("all fields: %d bytes", n)
		}
	})
	s.grows(t, "referrers", 150, func() {
		if n := s.fetch(t, "/v2/"+name+"/referrers/"+subject.name, http.StatusOK); n < int64(len(long)) {
			t.Errorf("referrers: %d bytes", n)
		}
	})
}

// TestFiltersTakeLittleMemory requests 1,000 lists with different filters of the maximum number of terms, each of which
// is a different statement for the database.
func TestFiltersTakeLittleMemory(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	const lists = "/pulp/api/v3/repositories/container/container/?limit=1&"
	ask := func(i int) {
		terms := make([]string, 32)
		for bit := range terms {
			terms[bit] = "key"
			if i>>bit&1 == 1 {
				terms[bit] = "!key"
			}
		}
		labels := `pulp_label_select="` + strings.Join(terms, ",") + `"`
		s.fetch(t, lists+"q="+url.QueryEscape(labels+strings.Repeat(" AND "+labels, 6)), http.StatusOK)
	}
	asks := func(from, to int) { // with as many concurrent requests as there are connections to the database
		var asking sync.WaitGroup
		for worker := range 8 {
			asking.Go(func() {
				for i := from + worker; i < to && !t.Failed(); i += 8 {
					ask(i)
				}
			})
		}
		asking.Wait()
	}
	asks(0, 100)
	s.grows(t, "1,000 filters", 100, func() { asks(100, 1100) })
	s.fetch(t, lists+"pulp_label_select="+strings.Repeat("key,", 990)+"key", http.StatusBadRequest)
}
