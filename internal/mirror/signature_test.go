package mirror_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/internal/mirror"
	"github.com/countersign/countersign/internal/pulp"
)

// TestSignatureSources proves that signatures are read from files and from the extension endpoint, without those of
// an unknown form.
func TestSignatureSources(t *testing.T) {
	t.Parallel()
	d := digest.FromString("m")
	files := newWitness(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/sigs/src/app@sha256=" + d.Encoded() + "/signature-1", "/sigs/src/app@sha256=" + d.Encoded() + "/signature-2":
			_, _ = io.WriteString(w, r.URL.Path[len(r.URL.Path)-1:])
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	at := files.URL + "/sigs/"
	g := open127(t, "http://127.0.0.1:1", func(r *pulp.Remote) { r.Sigstore = &at })
	from, err := g.SignatureSource(t.Context())
	if err != nil || from != mirror.Lookaside {
		t.Fatal(from, err)
	}
	if found, err := g.Signatures(t.Context(), from, d); err != nil || len(found) != 2 || string(found[1].Content) != "2" {
		t.Errorf("from files: %v, %v", found, err)
	}
	files.check(t, true)

	endlessFiles := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "x") }))
	defer endlessFiles.Close()
	g = open127(t, "http://127.0.0.1:1", func(r *pulp.Remote) { r.Sigstore = &endlessFiles.URL })
	if found, err := g.Signatures(t.Context(), mirror.Lookaside, d); err != nil || len(found) != 100 {
		t.Errorf("an endless number of files: %d signatures, %v", len(found), err)
	}

	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			if r.Header.Get("Authorization") != "" {
				t.Error("the request for /v2/ has credentials")
			}
			w.Header().Set("X-Registry-Supports-Signatures", "1")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if !strings.HasSuffix(r.URL.Path, string(d)) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, `{"signatures":[{"schemaVersion":2,"type":"atomic","name":"n","content":"eA=="},{"schemaVersion":1,"type":"atomic","content":"eA=="},`+
			`{"schemaVersion":2,"type":"other","content":"eA=="},{"schemaVersion":2,"type":"atomic","content":"!"}]}`)
	}))
	defer s.Close()
	g = open127(t, s.URL)
	if from, err = g.SignatureSource(t.Context()); err != nil || from != mirror.Extension {
		t.Fatal(from, err)
	}
	if found, err := g.Signatures(t.Context(), from, d); err != nil || len(found) != 1 || found[0].Name != "n" || string(found[0].Content) != "x" {
		t.Errorf("over the extension: %v, %v", found, err)
	}
	if found, err := g.Signatures(t.Context(), from, digest.FromString("other")); err != nil || len(found) != 0 {
		t.Errorf("a manifest without signatures: %v, %v", found, err)
	}
}

// TestSignaturesAreBounded proves that the files with the signatures of one manifest have a maximum size in all.
func TestSignaturesAreBounded(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 1_500_000)
	var asked atomic.Int64
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		_, _ = io.WriteString(w, large)
	}))
	defer files.Close()
	g := open127(t, "http://127.0.0.1:1", func(r *pulp.Remote) { r.Sigstore = &files.URL })
	if _, err := g.Signatures(t.Context(), mirror.Lookaside, digest.FromString("m")); !fault.Is(err, fault.Unavailable) || asked.Load() != 3 {
		t.Errorf("%v after %d", err, asked.Load())
	}
}
