package api

import (
	"cmp"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/countersign/countersign/internal/auth"
)

// newRouter returns the router of newAPI.
func newRouter(t *testing.T, login Authenticator) *gin.Engine {
	t.Helper()
	return newAPI(t, login).router()
}

// newAPI returns an API whose handlers have no store; the routes that need none can be called.
func newAPI(t *testing.T, login Authenticator) *API {
	t.Helper()
	public := &url.URL{Scheme: "https", Host: "registry.example:8443"}
	origins, err := auth.NewOrigins(public)
	if err != nil {
		t.Fatal(err)
	}
	return &API{
		Options: Options{Auth: login, PublicURL: public, Log: slog.New(slog.DiscardHandler)}, origins: origins,
	}
}

// parameterForm is the form of a parameter in a route.
var parameterForm = regexp.MustCompile(`:[^/]+`)

// servedRoutes returns the routes of a router that have a handler of a resource, as "METHOD path" with parameters as
// "{}": without HEAD and OPTIONS, which follow from the others, redirects, and routes that answer 405.
func servedRoutes(e *gin.Engine) []string {
	var served []string
	for _, r := range e.Routes() {
		if r.Method == http.MethodHead || r.Method == http.MethodOptions || strings.HasSuffix(r.Handler, ".redirectToSlash") || strings.HasSuffix(r.Handler, ".methodNotAllowed") {
			continue
		}
		served = append(served, r.Method+" "+parameterForm.ReplaceAllString(r.Path, "{}"))
	}
	slices.Sort(served)
	return served
}

// listedOperation is one method of one path. Parameters of the path are written as "{}", since Pulp and gin name them
// differently.
type listedOperation struct{ id, method, path string }

// readOperations reads a tab-separated file with these columns.
func readOperations(t *testing.T, file string, columns ...string) []listedOperation {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	parameter := regexp.MustCompile(`\{[^/]+\}`)
	var all []listedOperation
	for _, line := range strings.Split(strings.TrimSpace(string(raw)), "\n")[1:] {
		fields := strings.Split(line, "\t")
		if len(fields) != len(columns) {
			t.Fatalf("%s: %d fields, want %d: %s", file, len(fields), len(columns), line)
		}
		var o listedOperation
		for i, column := range columns {
			switch column {
			case "id":
				o.id = fields[i]
			case "method":
				o.method = fields[i]
			case "path":
				o.path = parameter.ReplaceAllString(fields[i], "{}")
			}
		}
		all = append(all, o)
	}
	return all
}

// TestRoutesAreTheDeclaredOperations compares the router's routes with testdata/routes.tsv, and that file with
// docs/pulp-operations.tsv, which lists the operations of Pulp: an operation has Pulp's id, method and path, or is
// "own" and unknown to Pulp.
func TestRoutesAreTheDeclaredOperations(t *testing.T) {
	t.Parallel()
	pulpIDs := map[string]string{} // by method and path
	for _, o := range readOperations(
		t, filepath.Join("..", "docs", "pulp-operations.tsv"), "tier", "method", "path", "id",
	) {
		pulpIDs[o.method+" "+o.path] = o.id
	}
	var want []string
	for _, o := range readOperations(t, filepath.Join("testdata", "routes.tsv"), "id", "method", "path") {
		key := o.method + " " + o.path
		want = append(want, key)
		if id := cmp.Or(pulpIDs[key], "own"); o.id != id {
			t.Errorf("routes.tsv: %s has the id %s, want %s", key, o.id, id)
		}
	}
	slices.Sort(want)
	if diff := gocmp.Diff(want, servedRoutes(newRouter(t, &noLogin{}))); diff != "" {
		t.Errorf("routes (-routes.tsv +router):\n%s", diff)
	}
}

// TestLiteralPathsHideNoParameters proves that a path without parameters answers every method itself, where its last
// segment could be the parameter of another route.
func TestLiteralPathsHideNoParameters(t *testing.T) {
	t.Parallel()
	router := newRouter(t, &noLogin{})
	for _, method := range append([]string{http.MethodTrace, "PROPFIND"}, routedMethods...) {
		r := httptest.NewRequestWithContext(t.Context(), method, "/pulp/api/v3/tasks/purge/", nil)
		w := httptest.NewRecorder()
		router.ServeHTTP(w, r)
		if allow := w.Header().Get("Allow"); allow != "POST, OPTIONS" || w.Code != http.StatusUnauthorized {
			t.Errorf("%s: status %d, Allow %q", method, w.Code, allow)
		}
	}
}
