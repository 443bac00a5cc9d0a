package upstream_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/storage/upstream"
)

// TestRedirectsCarryNoCredentials proves that another port of the same address is another host. net/http alone would
// keep the credentials.
func TestRedirectsCarryNoCredentials(t *testing.T) {
	t.Parallel()
	var leaked, served atomic.Int64
	blob := []byte("the bytes")
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		if r.Header.Get("Authorization") != "" {
			leaked.Add(1)
		}
		w.Header().Set("Content-Length", "9")
		_, _ = w.Write(blob)
	}))
	t.Cleanup(store.Close)
	s := open(t, basic(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, store.URL+"/bytes", http.StatusTemporaryRedirect)
	})), upstream.Options{Username: "robot", Password: "secret"})
	r, n, err := s.Open(t.Context(), "suite/one", digest.FromBytes(blob))
	if err != nil || n != int64(len(blob)) {
		t.Fatalf("Open = %d, %v", n, err)
	}
	defer func() { _ = r.Close() }()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, blob) {
		t.Errorf("read %q, %v", got, err)
	}
	if served.Load() != 1 || leaked.Load() != 0 {
		t.Errorf("%d of %d requests to another host carried credentials", leaked.Load(), served.Load())
	}
}

// uploads answers POST with an upload session, and calls other for other methods.
func uploads(other http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.Header().Set("Location", "/v2/suite/one/blobs/uploads/1")
			w.WriteHeader(http.StatusAccepted)
			return
		}
		other(w, r)
	})
}

// endlessSource is a client that sends without end. It counts the reads.
type endlessSource struct{ reads, returned *atomic.Int64 }

// Read implements io.Reader.
func (d endlessSource) Read(p []byte) (int, error) {
	d.reads.Add(1)
	if d.returned.Load() != 0 {
		return 0, errors.New("read after ReadFrom returned")
	}
	return copy(p, strings.Repeat("x", 4096)), nil
}

// TestReadFromStopsReading proves that the source is not read after ReadFrom has returned, even if the upstream
// answers early and net/http continues to read.
func TestReadFromStopsReading(t *testing.T) {
	t.Parallel()
	answers := map[string]http.HandlerFunc{
		"an early 403": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"an early 202": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/v2/x")
			w.WriteHeader(http.StatusAccepted)
		},
		"a closed connection": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"an early 429":        func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) },
	}
	for title, answer := range answers {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			s := open(t, uploads(answer), upstream.Options{})
			for range 20 {
				u, err := s.Create(t.Context(), "suite/one")
				if err != nil {
					t.Fatal(err)
				}
				var reads, returned atomic.Int64
				if _, err := u.ReadFrom(endlessSource{&reads, &returned}); err == nil {
					t.Error("ReadFrom of an endless source succeeded")
				}
				returned.Store(1)
				before := reads.Load()
				_ = u.Commit(t.Context(), digest.NewDigestFromBytes(digest.SHA256, make([]byte, sha256.Size)))
				if after := reads.Load(); after != before {
					t.Errorf("%d reads of the source after ReadFrom returned", after-before)
				}
			}
		})
	}
}

// TestRefusalsOfCommit proves which error a refused commit returns.
func TestRefusalsOfCommit(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		code      string // of the error in the response
		algorithm digest.Algorithm
		want      error
	}{
		"sha512, wrong bytes":          {code: "DIGEST_INVALID", algorithm: digest.SHA512, want: storage.ErrDigest},
		"sha512 is not supported":      {code: "UNSUPPORTED", algorithm: digest.SHA512, want: storage.ErrUnsupported},
		"sha256, wrong bytes":          {code: "DIGEST_INVALID", algorithm: digest.SHA256, want: storage.ErrDigest},
		"sha256, 400 without a reason": {algorithm: digest.SHA256, want: storage.ErrDigest},
		"sha512, 400 without a reason": {algorithm: digest.SHA512, want: storage.ErrUnsupported},
	}
	for title, c := range cases {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			s := open(t, uploads(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Location", r.URL.Path)
				switch r.Method {
				case http.MethodPatch:
					w.WriteHeader(http.StatusAccepted)
				case http.MethodPut:
					w.WriteHeader(http.StatusBadRequest)
					_, _ = io.WriteString(w, `{"errors":[{"code":"`+c.code+`","message":"no"}]}`)
				}
			}), upstream.Options{})
			u, err := s.Create(t.Context(), "suite/one")
			if err != nil {
				t.Fatal(err)
			}
			b := []byte("some bytes")
			if _, err := u.ReadFrom(bytes.NewReader(b)); err != nil {
				t.Fatal(err)
			}
			if err := u.Commit(t.Context(), c.algorithm.FromBytes(b)); !errors.Is(err, c.want) {
				t.Errorf("Commit = %v, want %v", err, c.want)
			}
		})
	}
}

// TestErrorsHideTheMessage proves that an error shows the upstream's error code and not its message.
func TestErrorsHideTheMessage(t *testing.T) {
	t.Parallel()
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"errors":[{"code":"MANIFEST_INVALID","message":"at /srv/registry by robot:secret"}]}`)
	}), upstream.Options{})
	err := s.PutManifest(t.Context(), "suite/one", "v1", "application/vnd.oci.image.manifest.v1+json", []byte("{}"))
	e, ok := errors.AsType[*fault.Error](err)
	if !ok || e.Kind != fault.Invalid || !strings.Contains(e.Msg, "MANIFEST_INVALID") || strings.Contains(e.Msg, "/srv") {
		t.Errorf("PutManifest = %v, want Invalid with the code and without the upstream's message", err)
	}
}

// TestChallengeOfAnotherHost proves that a challenge of the host of a redirect has no effect.
func TestChallengeOfAnotherHost(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	tokens := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(tokens.Close)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("another host received credentials")
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+tokens.URL+`/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(other.Close)
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+"/bytes", http.StatusFound)
	}), upstream.Options{Username: "robot", Password: "secret"})
	for range 2 {
		if _, _, err := s.Open(t.Context(), "suite/one", digest.FromString("x")); !fault.Is(err, fault.Unavailable) {
			t.Errorf("Open = %v, want Unavailable", err)
		}
	}
	if asked.Load() != 0 {
		t.Error("the token service of another host got a request")
	}
}

// TestLocateByStatus proves that all redirect statuses count, that redirects from https to http are followed by the
// server, and that other statuses are errors, even with a Location.
func TestLocateByStatus(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "bytes") }))
	t.Cleanup(plain.Close)
	part := storage.Part{Size: 5, Last: 4}
	for _, status := range []int{http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, plain.URL+"/bytes", status) })
		safe := httptest.NewTLSServer(answer)
		t.Cleanup(safe.Close)
		s, err := upstream.New(upstream.Options{URL: safe.URL, InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		at, content, err := s.Locate(t.Context(), "suite/one", digest.FromString("bytes"), part)
		if at != "" || err != nil {
			t.Fatalf("%d from https to http: Locate = %q, %v", status, at, err)
		}
		if b, err := io.ReadAll(content); err != nil || string(b) != "bytes" {
			t.Errorf("%d from https to http: read %q, %v", status, b, err)
		}
		_ = content.Close()
		if at, _, err := open(t, answer, upstream.Options{}).Locate(t.Context(), "suite/one", digest.FromString("bytes"), part); at != plain.URL+"/bytes" || err != nil {
			t.Errorf("%d: Locate = %q, %v", status, at, err)
		}
	}
	for _, status := range []int{http.StatusCreated, http.StatusMultipleChoices, http.StatusNotModified, http.StatusBadRequest} {
		s := open(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", plain.URL+"/bytes")
			w.WriteHeader(status)
		}), upstream.Options{})
		if at, content, err := s.Locate(t.Context(), "suite/one", digest.FromString("bytes"), part); at != "" || content != nil || err == nil {
			t.Errorf("%d: Locate = %q, %v, %v, want an error", status, at, content, err)
		}
	}
}
