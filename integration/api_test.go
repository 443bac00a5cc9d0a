package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/integration/process"
	"github.com/countersign/countersign/internal/eventually"
)

const (
	apiRoot         = "/pulp/api/v3/"
	pushRepos       = apiRoot + "repositories/container/container-push/"
	signingServices = apiRoot + "signing-services/"
	signatureList   = apiRoot + "content/container/signatures/"
	tagList         = apiRoot + "content/container/tags/"
	manifestList    = apiRoot + "content/container/manifests/"
	blobList        = apiRoot + "content/container/blobs/"
)

// object is a JSON object of the REST API.
type object = map[string]any

// page is one page of a list.
type page struct {
	Count   int      `json:"count"`
	Results []object `json:"results"`
}

// api sends HTTP requests as one user.
type api struct {
	base           *url.URL
	user, password string
}

// do sends one request and returns the status, the headers and the whole body. The path may contain a query.
func (a api) do(t *testing.T, method, path string, header http.Header, body []byte) (int, http.Header, []byte) {
	t.Helper()
	status, answered, text, err := a.try(t, method, path, header, body)
	if err != nil {
		t.Fatal(err)
	}
	return status, answered, text
}

// try is do with an error as its result: for requests during which the server may be killed, and for goroutines other
// than the test's.
func (a api) try(t *testing.T, method, path string, header http.Header, body []byte) (int, http.Header, []byte, error) {
	to, err := a.base.Parse(path)
	if err != nil {
		return 0, nil, nil, err
	}
	request, err := http.NewRequestWithContext(t.Context(), method, to.String(), bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	for name, values := range header {
		request.Header[name] = values
	}
	if a.user != "" {
		request.SetBasicAuth(a.user, a.password)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, response.Header, text, err
}

// client keeps enough connections for the load tests and does not follow redirects.
var client = &http.Client{
	Transport:     &http.Transport{MaxIdleConnsPerHost: 128},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       2 * time.Minute,
}

// call sends a JSON body (none if nil), checks the status and decodes the answer into out (ignored if nil).
func (a api) call(t *testing.T, method, path string, body any, want int, out any) {
	t.Helper()
	var text []byte
	header := http.Header{}
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			t.Fatal(err)
		}
		header.Set("Content-Type", "application/json")
	}
	status, _, answer := a.do(t, method, path, header, text)
	if status != want {
		t.Fatalf("%s %s: %d, want %d\n%s", method, path, status, want, answer)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(answer, out); err != nil {
		t.Fatalf("%s %s: %v\n%s", method, path, err, answer)
	}
}

// get reads one object.
func (a api) get(t *testing.T, path string) object {
	t.Helper()
	var out object
	a.call(t, http.MethodGet, path, nil, http.StatusOK, &out)
	return out
}

// list reads a whole list, page by page. The path may contain filters.
func (a api) list(t *testing.T, path string) page {
	t.Helper()
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	var whole page
	for next := path + separator + "limit=1000"; next != ""; {
		var one struct {
			page
			Next string `json:"next"`
		}
		a.call(t, http.MethodGet, next, nil, http.StatusOK, &one)
		whole.Count = one.Count
		whole.Results = append(whole.Results, one.Results...)
		next = one.Next
	}
	if whole.Count != len(whole.Results) {
		t.Fatalf("GET %s: count %d, but %d results", path, whole.Count, len(whole.Results))
	}
	return whole
}

// repository finds a push repository by its name.
func (a api) repository(t *testing.T, name string) object {
	t.Helper()
	found := a.list(t, pushRepos+"?name="+url.QueryEscape(name))
	if found.Count != 1 {
		t.Fatalf("%d push repositories named %s, want 1", found.Count, name)
	}
	return found.Results[0]
}

// sign starts a sign task and returns its href.
func (a api) sign(t *testing.T, repository string, body object) string {
	t.Helper()
	var out struct {
		Task string `json:"task"`
	}
	a.call(t, http.MethodPost, repository+"sign/", body, http.StatusAccepted, &out)
	return out.Task
}

// finished waits until a task has ended and returns it.
func (a api) finished(t *testing.T, task string) object {
	t.Helper()
	var now object
	eventually.NoError(t, process.Patience, func() error {
		now = a.get(t, task)
		if state := text(now["state"]); !slices.Contains([]string{"completed", "failed", "canceled", "skipped"}, state) {
			return fmt.Errorf("its state is %s: %v", state, now)
		}
		return nil
	}, "%s ends", task)
	return now
}

// signed runs a sign task, which must complete, and returns the href of the version that it made.
func (a api) signed(t *testing.T, repository string, body object) object {
	t.Helper()
	task := a.finished(t, a.sign(t, repository, body))
	made, _ := task["created_resources"].([]any)
	if task["state"] != "completed" || len(made) != 1 {
		t.Fatalf("sign task: %v", task)
	}
	return a.get(t, text(made[0]))
}

// count returns the number of units of a kind in a summary (added, present or removed) of a version.
func count(version object, summary, kind string) int {
	contents, _ := version["content_summary"].(object)
	kinds, _ := contents[summary].(object)
	entry, _ := kinds[kind].(object)
	number, _ := entry["count"].(float64)
	return int(number)
}

// text returns a JSON string, or an empty string for other values.
func text(value any) string {
	s, _ := value.(string)
	return s
}

// signature is an entry of the signature endpoint.
type signature struct {
	SchemaVersion int    `json:"schemaVersion"`
	Name          string `json:"name"`
	Type          string `json:"type"`
	Content       []byte `json:"content"`
}

// signatures reads a manifest's signatures from the signature endpoint, as clients do.
func (a api) signatures(t *testing.T, name, digest string) []signature {
	t.Helper()
	var out struct {
		Signatures []signature `json:"signatures"`
	}
	a.call(t, http.MethodGet, "/extensions/v2/"+name+"/signatures/"+digest, nil, http.StatusOK, &out)
	return out.Signatures
}

// digest reads the digest of a tag from the registry.
func (a api) digest(t *testing.T, name, tag string) string {
	t.Helper()
	status, header, _ := a.do(t, http.MethodHead, "/v2/"+name+"/manifests/"+tag, http.Header{"Accept": {"*/*"}}, nil)
	if status != http.StatusOK {
		t.Fatalf("HEAD %s:%s: %d", name, tag, status)
	}
	return header.Get("Docker-Content-Digest")
}
