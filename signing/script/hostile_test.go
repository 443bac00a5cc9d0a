package script_test

import (
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/internal/fault"
	"github.com/countersign/countersign/signing/script"
	"github.com/countersign/countersign/signing/signtest"
)

// TestTheDeadlineKillsTheWholeGroup: neither the script nor the child that it forked, which both ignore what they are told, outlives it.
//
// Hostile input 10.
func TestTheDeadlineKillsTheWholeGroup(t *testing.T) {
	t.Parallel()
	pids := filepath.Join(t.TempDir(), "pids")
	path := write(t, "#!/usr/bin/env bash\ntrap '' TERM INT HUP\n(trap '' TERM INT HUP; sleep 300) &\necho $$ $! > "+pids+".new; mv "+pids+".new "+pids+"\nwait\n")
	s := script.New(script.Options{Path: path, WorkDir: t.TempDir(), Timeout: 2 * time.Second})
	if _, err := s.Sign(t.Context(), signtest.Request("a/b:c", "{}")); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "did not end within 2s") {
		t.Errorf("Sign = %v, want the deadline", err)
	}
	wantEnded(t, pids)
}

// TestOutputWithoutEndIsNotKept has scripts print a gigabyte, or keep a gigabyte in their file. It runs beside no other test, for it counts bytes.
//
// Hostile input 9.
func TestOutputWithoutEndIsNotKept(t *testing.T) {
	for name, tt := range map[string]struct{ script, want string }{
		"a gigabyte of output":                     {"head -c 1000000000 /dev/zero", "printed more than"},
		"a gigabyte of errors":                     {"head -c 1000000000 /dev/zero >&2; exit 1", "ended with exit status 1 and wrote nothing to standard error"},
		"a gigabyte of errors, and a wrong answer": {"head -c 1000000000 /dev/zero >&2; echo '{}'", "'signature_path'"},
		"a signature of a gigabyte":                {`truncate -s 1000000000 s; echo '{"signature_path":"s"}'`, "a signature of more than"},
		"a path of sixty kilobytes":                {`printf '{"signature_path":"%060000d"}' 0`, "outside its directory, or no file"},
		"an answer nested thirty thousand times":   {`printf '{"signature_path":'; printf '%030000d' 0 | tr 0 '['; printf '%030000d}' 0 | tr 0 ']'`, "did not return valid JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			s := script.New(script.Options{Path: write(t, "#!/usr/bin/env bash\n"+tt.script+"\n"), WorkDir: t.TempDir(), Timeout: time.Minute})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := s.Sign(t.Context(), signtest.Request("a/b:c", "{}"))
			runtime.ReadMemStats(&after)
			if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Sign = %v, want %q", err, tt.want)
			}
			if taken := after.TotalAlloc - before.TotalAlloc; taken > 32<<20 {
				t.Errorf("it took %d bytes of memory", taken)
			}
		})
	}
}
