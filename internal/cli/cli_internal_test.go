package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/admin"
	"github.com/countersign/countersign/internal/fault"
)

// outcome is the result of one call of the program.
type outcome struct {
	out, errOut string
	err         error
	status      int
}

// call runs the program in a new data directory with arguments, args[0] included, and variables.
func call(t *testing.T, args []string, environ ...string) outcome {
	t.Helper()
	var out, errOut bytes.Buffer
	p := Program{
		Version: "dev", Args: args, Environ: append([]string{"COUNTERSIGN_DATA=" + t.TempDir()}, environ...),
		In: strings.NewReader(""), Out: &out, ErrOut: &errOut,
	}
	command, err := p.run(t.Context())
	return outcome{out: out.String(), errOut: errOut.String(), err: err, status: exitStatus(command, err)}
}

// TestHelp verifies that the common forms of asking for help list all commands, and that each command has help of its
// own.
func TestHelp(t *testing.T) {
	t.Parallel()
	commands := strings.Fields("serve worker add-signing-service remove-signing-service list-signing-services list-signing-assignments " +
		"revoke-signing-assignments verify adopt drift reset-admin-password migrate sign doctor status rollback sync completion man")
	for group, names := range map[string]string{
		"user": "add list edit password disable enable remove", "group": "add list remove add-member remove-member",
		"repository": "list show", "tag": "list", "version": "list show diff", "task": "list show cancel follow", "mirror": "add", "config": "check",
		"role": "grant revoke list show",
	} {
		for name := range strings.FieldsSeq(names) {
			commands = append(commands, group+" "+name)
		}
	}
	for _, args := range [][]string{{}, {"help"}, {"--help"}, {"-h"}} {
		got := call(t, append([]string{"countersign"}, args...))
		if got.err != nil || got.errOut != "" {
			t.Errorf("%v: error %v, %q", args, got.err, got.errOut)
		}
		for _, command := range commands {
			if !regexp.MustCompile(`(?m)^  ` + command + `\b`).MatchString(got.out) {
				t.Errorf("%v: the help lacks %s:\n%s", args, command, got.out)
			}
		}
	}
	for _, command := range commands {
		if got := call(t, append(append([]string{"countersign"}, strings.Fields(command)...), "--help")); got.err != nil || !strings.HasPrefix(got.out, "Usage: countersign "+command) {
			t.Errorf("%s --help: error %v, output:\n%s", command, got.err, got.out)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"version", "--version"} {
		if got := call(t, []string{"countersign", arg}); got.err != nil || !regexp.MustCompile(`^countersign dev go1\.\S+\n$`).MatchString(got.out) {
			t.Errorf("%s: error %v, output %q", arg, got.err, got.out)
		}
	}
}

// TestErrors verifies the line that an operator reads, which begins with the name by which the program was called,
// except for the errors in the form of Pulp's commands.
func TestErrors(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args    []string
		environ []string
		want    string // a regular expression
	}{
		"unknown command": {
			args: []string{"countersign", "start"},
			want: "^countersign: unexpected argument start; `countersign --help` lists the commands$",
		},
		"missing argument": {
			args: []string{"countersign", "adopt"},
			want: "^countersign: expected \"<pattern>\"; `countersign --help` lists the commands$",
		},
		"invalid setting": {
			args: []string{"countersign", "serve"}, environ: []string{"COUNTERSIGN_WORKERS=many"},
			want: `^countersign: COUNTERSIGN_WORKERS: want a whole number, got "many"$`,
		},
		"missing file": {
			args: []string{"countersign", "--config", "/nonexistent", "serve"},
			want: "^countersign: configuration file: open /nonexistent: no such file or directory$",
		},
		"other program name": {
			args: []string{"/usr/bin/pulpcore-manager", "reset-admin-password"},
			want: "^pulpcore-manager: there is no database at ",
		},
		"error of a command": {args: []string{"countersign", "worker"}, want: "^countersign: a worker shares its database"},
		"Pulp's command": {
			args: []string{"countersign", "add-signing-service", "x", "--openpgp-key", "/nonexistent"},
			want: `^CommandError: The key file cannot be read: no such file or directory\.$`,
		},
		"no upstream": {
			args: []string{"countersign", "drift"},
			want: "^countersign: there is no upstream registry: set COUNTERSIGN_UPSTREAM_URL",
		},
		"revoke nothing": {
			args: []string{"countersign", "revoke-signing-assignments"},
			want: "^countersign: give the names of repositories, or --all",
		},
		"user without a name": {
			args: []string{"countersign", "user", "add", "--password-stdin"},
			want: "^countersign: expected \"<name>\"; `countersign --help` lists the commands$",
		},
		"password as an argument": {
			args: []string{"countersign", "user", "password", "alice", "--password=secret"},
			want: "^countersign: unknown flag --password",
		},
		"user without a database": {
			args: []string{"countersign", "user", "edit", "alice", "--no-admin", "--email=a@b"}, want: "^countersign: there is no database at ",
		},
		"role without a database": {
			args: []string{"countersign", "role", "grant", "r", "--group=g", "--namespace=n"}, want: "^countersign: there is no database at ",
		},
		"reference of others": {args: []string{"countersign", "verify", "x"}, want: "^countersign: there is no database at "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := call(t, tt.args, tt.environ...); got.err == nil || !regexp.MustCompile(tt.want).MatchString(got.err.Error()) {
				t.Errorf("error %v, want %s", got.err, tt.want)
			}
		})
	}
}

// TestExitStatus verifies the status of each kind of error (docs/cli.md). Verify has status 2 for an image that could not be
// verified, whatever the reason.
func TestExitStatus(t *testing.T) {
	t.Parallel()
	failure := errors.New("failure")
	for name, tt := range map[string]struct {
		command string
		err     error
		want    int
	}{
		"done":                    {command: "sign", want: 0},
		"command failed":          {command: "serve", err: failure, want: 1},
		"image not accepted":      {command: "verify", err: admin.ErrNotAccepted, want: 1},
		"image not verified":      {command: "verify", err: failure, want: 2},
		"image not found":         {command: "verify", err: missing("no tag"), want: 2},
		"failure already shown":   {command: "status", err: silentError{}, want: 1},
		"wrong use":               {command: "sign", err: fmt.Errorf("countersign: %w", usageError{failure}), want: 2},
		"wrong command line":      {err: usageError{failure}, want: 2},
		"no permission":           {command: "sign", err: fault.New(fault.Denied, "no"), want: 3},
		"no login":                {command: "sign", err: fmt.Errorf("x: %w", fault.New(fault.Unauthenticated, "no")), want: 3},
		"not found":               {command: "sign", err: missing("no tag"), want: 4},
		"server away":             {command: "sign", err: fault.New(fault.Unavailable, "away"), want: 5},
		"too many requests":       {command: "sign", err: fault.New(fault.TooMany, "later"), want: 5},
		"request refused":         {command: "sign", err: fault.New(fault.Invalid, "no"), want: 1},
		"interrupted":             {command: "sign", err: fmt.Errorf("x: %w", context.Canceled), want: 130},
		"task failed, and output": {command: "sync", err: errors.Join(nil, failure), want: 1},
	} {
		if got := exitStatus(tt.command, tt.err); got != tt.want {
			t.Errorf("%s: exit status %d, want %d", name, got, tt.want)
		}
	}
}

// TestConfiguration verifies that the file of --config is used, that the log has its format, and that warnings are
// logged.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "countersign.yaml")
	if err := os.WriteFile(file, []byte("database_url: sqlite:"+dir+"/other.db\nlog: {format: json}\nupstream: {redirects: hand_on}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := call(t, []string{"countersign", "--config", file, "migrate"}, "COUNTERSIGN_UNKNOWN=x")
	if got.err != nil || got.out != "The database schema is up to date.\n" {
		t.Errorf("error %v, output %q", got.err, got.out)
	}
	if _, err := os.Stat(filepath.Join(dir, "other.db")); err != nil {
		t.Errorf("the database of the file was not used: %v", err)
	}
	for _, want := range []string{
		`"msg":"check the configuration","setting":"COUNTERSIGN_UNKNOWN","problem":"unknown setting in the environment"`,
		`"msg":"check the configuration","setting":"upstream.redirects","problem":"the value hand_on was renamed: use pass_through"`,
	} {
		if !strings.Contains(got.errOut, want) {
			t.Errorf("log, want %s:\n%s", want, got.errOut)
		}
	}
}

// TestServeCommand verifies that serve runs with the settings of the command line: its error names the address that
// is in use.
func TestServeCommand(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	got := call(t, []string{"countersign", "serve"}, "COUNTERSIGN_LISTEN="+taken.Addr().String())
	if got.err == nil || !strings.Contains(got.err.Error(), taken.Addr().String()) || !strings.Contains(got.err.Error(), "set COUNTERSIGN_LISTEN") {
		t.Errorf("error %v, want one with the address and the setting", got.err)
	}
}

// TestCommands runs commands one after the other on one data directory, as an operator does.
func TestCommands(t *testing.T) {
	t.Parallel()
	data := "COUNTERSIGN_DATA=" + t.TempDir()
	for _, tt := range []struct {
		arguments string
		want      string // a regular expression for the output
		wantErr   string // a regular expression; empty for no error
	}{
		{arguments: "list-signing-services", want: "^$", wantErr: "^countersign: there is no database at "},
		{arguments: "migrate", want: `^The database schema is up to date\.\n$`},
		{arguments: "migrate", want: `^The database schema is up to date\.\n$`},
		{arguments: "reset-admin-password", want: `^The password of admin is now [A-Z2-7]{20,}\n$`},
		{arguments: "reset-admin-password --password chosen-password", want: `^The password of admin was changed\.\n$`},
		{arguments: "list-signing-services", want: "^$"},
		{arguments: "list-signing-assignments", want: "^$"},
		{arguments: "revoke-signing-assignments --all", want: `^Revoked 0 assignments\.\n$`},
		{
			arguments: "revoke-signing-assignments --all team/app", want: "^$",
			wantErr: "^countersign: give the names of repositories, or --all",
		},
		{arguments: "remove-signing-service missing", want: "^$", wantErr: "^CommandError: "},
		{
			arguments: "remove-signing-service x --class x:Y", want: "^$",
			wantErr: `^CommandError: No installed app with label 'x'\.$`,
		},
		{arguments: "verify registry.example/team/app:v1", want: "^$", wantErr: "is not a reference of this installation"},
	} {
		args := append([]string{"countersign"}, strings.Fields(tt.arguments)...)
		got := call(t, args, data) // the later variable is used
		if !regexp.MustCompile(tt.want).MatchString(got.out) {
			t.Errorf("%s: output %q, want %s", tt.arguments, got.out, tt.want)
		}
		if (got.err != nil) != (tt.wantErr != "") || got.err != nil && !regexp.MustCompile(tt.wantErr).MatchString(got.err.Error()) {
			t.Errorf("%s: error %v, want %q", tt.arguments, got.err, tt.wantErr)
		}
	}
}

// TestLogLevel verifies that entries below the configured level are not logged.
func TestLogLevel(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ level, want string }{
		{level: "warn", want: "msg=\"check the configuration\""}, {level: "error", want: ""},
	} {
		got := call(t, []string{"countersign", "migrate"}, "COUNTERSIGN_LOG_LEVEL="+tt.level, "COUNTERSIGN_UNKNOWN=x")
		if got.err != nil || !strings.Contains(got.errOut, tt.want) || (got.errOut == "") != (tt.want == "") {
			t.Errorf("level %s: error %v, log %q, want %q", tt.level, got.err, got.errOut, tt.want)
		}
	}
}
