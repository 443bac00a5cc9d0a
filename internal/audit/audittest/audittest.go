// Package audittest records the entries of audit logs in tests.
package audittest

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"

	"github.com/countersign/countersign/internal/audit"
)

// Recorder collects the entries of an audit log, in the form in which they appear in the log of the program. The zero
// Recorder is ready for use. It is safe for concurrent use.
type Recorder struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

// Log returns an audit log whose entries the recorder collects. It needs no Close.
func (r *Recorder) Log() *audit.Log {
	return audit.New(audit.Options{Log: slog.New(slog.NewJSONHandler(r, nil))})
}

// Write implements io.Writer.
func (r *Recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lines.Write(p)
}

// Take returns the entries since the last call, decoded as JSON. E has a field for each attribute that the test
// compares. The result is nil if there are no entries.
func Take[E any](t testing.TB, r *Recorder) []E {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []E
	for line := range bytes.Lines(r.lines.Bytes()) {
		var e E
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all = append(all, e)
	}
	r.lines.Reset()
	return all
}
