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

// TestTimeoutKillsProcessGroup proves that the timeout kills a script and its child, which both ignore signals
// (hostile-inputs.md#script-hangs).
func TestTimeoutKillsProcessGroup(t *testing.T) {
	t.Parallel()
	pids := filepath.Join(t.TempDir(), "pids")
	path := write(t, "#!/usr/bin/env bash\ntrap '' TERM INT HUP\n(trap '' TERM INT HUP; sleep 300) &\necho $$ $! > "+pids+".new; mv "+pids+".new "+pids+"\nwait\n")
	s := script.New(script.Options{Path: path, WorkDir: t.TempDir(), Timeout: 2 * time.Second})
	if _, err := s.Sign(t.Context(), signtest.Request("a/b:c", "{}")); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "did not end within 2s") {
		t.Errorf("Sign = %v, want the timeout", err)
	}
	wantEnded(t, pids)
}

// TestEndlessOutputIsNotKept runs scripts that print a gigabyte or write a gigabyte to the signature file
// (hostile-inputs.md#script-output). It is not parallel, since it measures the memory of the process.
func TestEndlessOutputIsNotKept(t *testing.T) {
	for name, tt := range map[string]struct{ script, want string }{
		"a gigabyte of output":                     {script: "head -c 1000000000 /dev/zero", want: "printed more than"},
		"a gigabyte of errors":                     {script: "head -c 1000000000 /dev/zero >&2; exit 1", want: "ended with exit status 1 and wrote nothing to standard error"},
		"a gigabyte of errors, and a wrong answer": {script: "head -c 1000000000 /dev/zero >&2; echo '{}'", want: "'signature_path'"},
		"a signature of a gigabyte":                {script: `truncate -s 1000000000 s; echo '{"signature_path":"s"}'`, want: "a signature of more than"},
		"a path of sixty kilobytes":                {script: `printf '{"signature_path":"%060000d"}' 0`, want: "outside its directory, or no file"},
		"an answer nested thirty thousand times":   {script: `printf '{"signature_path":'; printf '%030000d' 0 | tr 0 '['; printf '%030000d}' 0 | tr 0 ']'`, want: "did not return valid JSON"},
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
				t.Errorf("Sign allocated %d bytes, want %d at most", taken, 32<<20)
			}
		})
	}
}
