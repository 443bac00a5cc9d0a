package apiclient_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/apiclient"
	"github.com/countersign/countersign/internal/fault"
)

// client returns a client of a handler in this process.
func client(h http.HandlerFunc) *apiclient.Client {
	return apiclient.New(apiclient.Options{
		Server: &url.URL{Scheme: "http", Host: "registry.example"}, Transport: apiclient.LocalTransport{Handler: h},
		Username: "alice", Password: "secret", UserAgent: "test",
	})
}

func TestRequests(t *testing.T) {
	t.Parallel()
	c := client(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		var body map[string]string
		_ = json.NewDecoder(r.Body).Decode(&body)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"method": r.Method, "url": r.URL.Path + "?" + r.URL.RawQuery, "login": user + ":" + password, "body": body,
			"accept": r.Header.Get("Accept"), "agent": r.UserAgent(),
		})
	})
	var got map[string]any
	if err := c.Get(t.Context(), "/pulp/x/", url.Values{"a": {"b c"}}, &got); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprintf("%v %v %v %v %v", got["method"], got["url"], got["login"], got["accept"], got["agent"]) != "GET /pulp/x/?a=b+c alice:secret application/json test" {
		t.Errorf("got %v", got)
	}
	if err := c.Post(t.Context(), "/pulp/x/", map[string]string{"k": "v"}, &got); err != nil {
		t.Fatal(err)
	}
	if got["method"] != "POST" || fmt.Sprint(got["body"]) != "map[k:v]" {
		t.Errorf("got %v", got)
	}
}

// TestErrors verifies the kind and the text of the errors for each form of answer.
func TestErrors(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		status int
		body   string
		header http.Header
		kind   fault.Kind
		want   string
	}{
		"detail": {status: 403, body: `{"detail": "No."}`, kind: fault.Denied, want: "No."},
		"fields": {
			status: 400, body: `{"b": ["Two.", "Three."], "a": ["One."], "non_field_errors": ["Four."]}`,
			kind: fault.Invalid, want: "a: One. b: Two. b: Three. Four.",
		},
		"nested":          {status: 400, body: `{"base_path": {"base_path": "Overlaps."}}`, kind: fault.Invalid, want: "base_path: Overlaps."},
		"list":            {status: 400, body: `["One.", "Two."]`, kind: fault.Invalid, want: "One. Two."},
		"query":           {status: 400, body: `{"errors": ["Bad."]}`, kind: fault.Invalid, want: "Bad."},
		"login":           {status: 401, body: `{"detail": "Who?"}`, kind: fault.Unauthenticated, want: "Who?"},
		"missing":         {status: 404, body: `{"detail": "Not found."}`, kind: fault.NotFound, want: "Not found."},
		"another program": {status: 404, body: `<html>`, kind: fault.Internal, want: "http://registry.example has no REST API: it answers /pulp/x/ with 404"},
		"gateway":         {status: 502, body: `<html>`, kind: fault.Unavailable, want: "http://registry.example answers GET /pulp/x/ with 502 Bad Gateway"},
		"internal":        {status: 500, body: `{"detail": "Internal server error."}`, kind: fault.Internal, want: "Internal server error."},
		"redirect": {
			status: 301, header: http.Header{"Location": {"https://other.example/"}}, kind: fault.Internal,
			want: "http://registry.example/pulp/x/ redirects to https://other.example/: give the URL of the server itself",
		},
		"empty": {status: 409, kind: fault.Conflict, want: "http://registry.example answers GET /pulp/x/ with 409 Conflict"},
		"later": {status: 429, body: `{"detail": "Later."}`, header: http.Header{"Retry-After": {"7"}}, kind: fault.TooMany, want: "Later."},
	} {
		c := client(func(w http.ResponseWriter, _ *http.Request) {
			for key, values := range tt.header {
				w.Header()[key] = values
			}
			w.WriteHeader(tt.status)
			_, _ = w.Write([]byte(tt.body))
		})
		err := c.Get(t.Context(), "/pulp/x/", nil, nil)
		if err == nil || err.Error() != tt.want || fault.KindOf(err) != tt.kind {
			t.Errorf("%s: %v of kind %v, want %s of kind %v", name, err, fault.KindOf(err), tt.want, tt.kind)
		}
		if name == "later" && fault.RetryAfter(err) != 7*time.Second {
			t.Errorf("retry after %v", fault.RetryAfter(err))
		}
	}
}

// TestRedirectsKeepTheLogin verifies that credentials are not sent where a server redirects to.
func TestRedirectsKeepTheLogin(t *testing.T) {
	t.Parallel()
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	defer other.Close()
	server := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	defer server.Close()
	at, _ := url.Parse(server.URL)
	c := apiclient.New(apiclient.Options{Server: at, Transport: http.DefaultTransport, Username: "a", Password: "b"})
	if err := c.Get(t.Context(), "/x/", nil, nil); err == nil || !strings.Contains(err.Error(), "redirects to "+other.URL) {
		t.Errorf("error %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	at, _ := url.Parse(server.URL)
	server.Close()
	c := apiclient.New(apiclient.Options{Server: at, Transport: http.DefaultTransport})
	err := c.Get(t.Context(), "/x/", nil, nil)
	if !fault.Is(err, fault.Unavailable) || !strings.HasPrefix(err.Error(), "cannot reach "+server.URL+": ") {
		t.Errorf("error %v of kind %v", err, fault.KindOf(err))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Get(ctx, "/x/", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error of a canceled request: %v", err)
	}
}

// numbers answers with a list of total numbers.
func numbers(total int, requests *int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		*requests++
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
		found := []string{}
		for i := offset; i < min(total, offset+limit); i++ {
			found = append(found, fmt.Sprintf(`{"n": %d,  "other": "kept"}`, i))
		}
		next := "null"
		if offset+limit < total {
			next = `"http://registry.example/next"`
		}
		_, _ = fmt.Fprintf(w, `{"count": %d, "next": %s, "results": [%s]}`, total, next, strings.Join(found, ","))
	}
}

type number struct {
	N int `json:"n"`
}

func TestList(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ total, limit, want, requests int }{
		{total: 0, want: 0, requests: 1},
		{total: 7, want: 7, requests: 1},
		{total: 2500, want: 2500, requests: 3},
		{total: 2000, want: 2000, requests: 2},
		{total: 2500, limit: 10, want: 10, requests: 1},
		{total: 2500, limit: 1200, want: 1200, requests: 2},
		{total: 5, limit: 10, want: 5, requests: 1},
	} {
		requests := 0
		found, count, err := apiclient.List[apiclient.Object[number]](
			t.Context(), client(numbers(tt.total, &requests)), "/x/", url.Values{"name": {"a"}}, tt.limit)
		if err != nil || count != tt.total || len(found) != tt.want || requests != tt.requests {
			t.Errorf("%+v: %d of %d objects in %d requests, %v", tt, len(found), count, requests, err)
		}
		for i, v := range found {
			if v.V.N != i {
				t.Fatalf("%+v: object %d is %d", tt, i, v.V.N)
			}
		}
		if len(found) > 0 {
			text, err := json.Marshal(found[0])
			if err != nil || string(text) != `{"n":0,"other":"kept"}` {
				t.Errorf("JSON %s, %v", text, err)
			}
		}
	}
}

func TestOne(t *testing.T) {
	t.Parallel()
	requests := 0
	for total, want := range []error{apiclient.ErrNone, nil, apiclient.ErrSeveral} {
		if _, err := apiclient.One[number](t.Context(), client(numbers(total, &requests)), "/x/", nil); !errors.Is(err, want) {
			t.Errorf("%d objects: error %v, want %v", total, err, want)
		}
	}
}

// TestTransport verifies that a private authority is trusted only if its certificate is given.
func TestTransport(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{}`)) }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of refused handshakes
	server.StartTLS()
	defer server.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	at, _ := url.Parse(server.URL)
	for ca, want := range map[string]bool{"": false, file: true} {
		transport, err := apiclient.Transport(ca)
		if err != nil {
			t.Fatal(err)
		}
		err = apiclient.New(apiclient.Options{Server: at, Transport: transport}).Get(t.Context(), "/x/", nil, nil)
		if (err == nil) != want {
			t.Errorf("with the authority %q: %v", ca, err)
		}
		transport.CloseIdleConnections()
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{empty, "/nonexistent"} {
		if _, err := apiclient.Transport(wrong); err == nil {
			t.Errorf("%s: no error", wrong)
		}
	}
}

// FuzzErrors verifies that no answer of a server causes a panic, and that each failed request has an error with a text.
func FuzzErrors(f *testing.F) {
	for _, seed := range []string{`{"detail": "x"}`, `["x"]`, `{"a": ["x"], "b": {"c": "d"}}`, `{"a": 1}`, `{}`, `[]`, `x`, `null`, `{"a": null}`, `[1]`} {
		f.Add(400, seed)
		f.Add(404, seed)
	}
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 300 || status > 599 {
			t.Skip()
		}
		err := client(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}).Get(t.Context(), "/x/", nil, nil)
		if err == nil || err.Error() == "" {
			t.Errorf("error %v", err)
		}
	})
}
