package upstream_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/storage"
	"github.com/countersign/countersign/storage/upstream"
)

// TestFinishIsTwoRequests proves that Finish needs one request besides that of Create, and that wrong bytes are not
// stored.
func TestFinishIsTwoRequests(t *testing.T) {
	t.Parallel()
	var asked []string
	s := open(t, recorded(distribution(t), &asked), upstream.Options{})
	put(t, s, "suite/one", []byte("bytes"))
	if len(asked) != 2 {
		t.Errorf("%d requests, want 2: %v", len(asked), asked)
	}
	content, size, err := s.Open(t.Context(), "suite/one", digest.FromString("bytes"))
	if err != nil || size != 5 || len(asked) != 3 {
		t.Fatalf("Open = %d, %v after %v", size, err, asked)
	}
	defer func() { _ = content.Close() }()
	if _, err := content.Seek(2, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(content); err != nil || string(b) != "tes" {
		t.Errorf("read %q, %v", b, err)
	}
	u, err := s.Create(t.Context(), "suite/one")
	if err != nil {
		t.Fatal(err)
	}
	if err := u.(storage.Finisher).Finish(t.Context(), strings.NewReader("others"), digest.FromString("wrong")); !errors.Is(err, storage.ErrDigest) {
		t.Errorf("Finish with other bytes = %v", err)
	}
	if _, err := s.Stat(t.Context(), "suite/one", digest.FromString("wrong")); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Stat = %v", err)
	}
}

// TestLocate proves that Locate returns a URL only for a redirect that clients can follow without credentials.
func TestLocate(t *testing.T) {
	t.Parallel()
	d := digest.FromString("bytes")
	for name, tt := range map[string]struct{ to, want string }{
		"another host":          {to: "http://store.example/bytes?signature=x", want: "http://store.example/bytes?signature=x"},
		"the same host":         {to: "/elsewhere"},
		"a URL with a password": {to: "http://user:secret@store.example/bytes"},
		"another scheme":        {to: "ftp://store.example/bytes"},
		"no location":           {to: ""},
	} {
		s := open(t, basic(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", tt.to)
			w.WriteHeader(http.StatusTemporaryRedirect)
		})), upstream.Options{Username: "robot", Password: "secret"})
		at, content, err := s.Locate(t.Context(), "suite/one", d, storage.Part{Size: 5, Last: 4})
		if at != tt.want || content != nil || (err == nil) != (tt.want != "") {
			t.Errorf("%s: Locate = %q, %v, %v, want %q", name, at, content, err, tt.want)
		}
	}
	s := open(t, distribution(t), upstream.Options{})
	put(t, s, "suite/one", []byte("bytes"))
	at, content, err := s.Locate(t.Context(), "suite/one", d, storage.Part{Size: 5, Last: 4})
	if err != nil || at != "" || content == nil {
		t.Fatalf("Locate = %q, %v, %v", at, content, err)
	}
	defer func() { _ = content.Close() }()
	if b, err := io.ReadAll(content); err != nil || string(b) != "bytes" {
		t.Errorf("read %q, %v", b, err)
	}
	if at, content, err := s.Locate(t.Context(), "suite/one", digest.FromString("none"), storage.Part{Size: 5, Last: 4}); at != "" || content != nil || !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Locate of an unknown blob = %q, %v, %v", at, content, err)
	}
}

// TestLocateFollowsWithinTheUpstream proves that a redirect to the upstream's own host is followed with the
// credentials.
func TestLocateFollowsWithinTheUpstream(t *testing.T) {
	t.Parallel()
	var asked []string
	s := open(t, recorded(basic(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/bytes":
			_, _ = io.WriteString(w, "bytes")
		default:
			http.Redirect(w, r, "/bytes", http.StatusFound)
		}
	})), &asked), upstream.Options{Username: "robot", Password: "secret"})
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "suite/one", digest.FromString("bytes")); err != nil { // the client learns that the upstream wants Basic authentication
		t.Fatal(err)
	}
	before := len(asked)
	at, content, err := s.Locate(t.Context(), "suite/one", digest.FromString("bytes"), storage.Part{Size: 5, Last: 4})
	if err != nil || at != "" {
		t.Fatalf("Locate = %q, %v", at, err)
	}
	defer func() { _ = content.Close() }()
	if b, err := io.ReadAll(content); err != nil || string(b) != "bytes" || len(asked)-before != 2 {
		t.Errorf("read %q, %v after %v", b, err, asked[before:])
	}
}

// TestOpenPart proves that only the part is requested, and that another part in the response is an error.
func TestOpenPart(t *testing.T) {
	t.Parallel()
	whole := strings.Repeat("0123456789", 10)
	d := digest.FromString(whole)
	part := storage.Part{Size: 100, First: 20, Last: 29}
	answers := map[string]struct {
		answer http.HandlerFunc
		fails  bool
	}{
		"the part": {answer: func(w http.ResponseWriter, r *http.Request) {
			if got := r.Header.Get("Range"); got != "bytes=20-29" {
				t.Errorf("Range = %q, want the part", got)
			}
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(whole))
		}},
		"the whole blob": {answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, whole) }},
		"too few bytes":  {fails: true, answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, whole[:15]) }},
		"a part without Content-Range": {answer: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, whole[20:30])
		}},
		"another part": {fails: true, answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-9/100")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = io.WriteString(w, whole[:10])
		}},
		"status 416": {fails: true, answer: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		}},
	}
	for name, tt := range answers {
		s := open(t, tt.answer, upstream.Options{})
		content, err := s.OpenPart(t.Context(), "suite/one", d, part)
		if tt.fails {
			if !fault.Is(err, fault.Unavailable) {
				t.Errorf("%s: OpenPart = %v, want Unavailable", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: OpenPart = %v", name, err)
			continue
		}
		got := make([]byte, 10)
		_, err = content.Seek(20, io.SeekStart)
		if _, err2 := io.ReadFull(content, got); err != nil || err2 != nil || string(got) != whole[20:30] {
			t.Errorf("%s: read %q, %v, %v", name, got, err, err2)
		}
		_ = content.Close()
	}
	s := open(t, distribution(t), upstream.Options{})
	put(t, s, "suite/one", []byte(whole))
	content, err := s.OpenPart(t.Context(), "suite/one", d, part)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = content.Close() }()
	if b, err := io.ReadAll(content); err != nil || string(b) != whole { // another part than the one it was opened for
		t.Errorf("read %q, %v", b, err)
	}
}

// TestContentLength proves that bodies of a known length have a Content-Length, and that others are chunked.
func TestContentLength(t *testing.T) {
	t.Parallel()
	var lengths []int64
	registry := distribution(t)
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch || r.Method == http.MethodPut {
			lengths = append(lengths, r.ContentLength)
		}
		registry.ServeHTTP(w, r)
	}), upstream.Options{})
	for _, text := range []string{"", "bytes"} {
		for _, known := range []bool{true, false} {
			lengths = nil
			var from io.Reader = strings.NewReader(text)
			if !known {
				from = io.MultiReader(from)
			}
			u, err := s.Create(t.Context(), "suite/one")
			if err != nil {
				t.Fatal(err)
			}
			if n, err := u.ReadFrom(from); err != nil || n != int64(len(text)) {
				t.Errorf("ReadFrom = %d, %v", n, err)
			}
			if err := u.Commit(t.Context(), digest.FromString(text)); err != nil {
				t.Errorf("Commit = %v", err)
			}
			want := int64(len(text))
			if !known {
				want = -1
			}
			if len(lengths) != 2 || lengths[0] != want || lengths[1] != 0 {
				t.Errorf("%q, known %t: Content-Length %v, want %d and 0", text, known, lengths, want)
			}
		}
	}
}
