package cli

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// httpProxy returns a proxy for a server.
func httpProxy(target *url.URL) http.Handler {
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
}

func model(t *testing.T) *kong.Kong {
	t.Helper()
	var line commandLine
	parser, err := newParser(&line, "countersign")
	if err != nil {
		t.Fatal(err)
	}
	return parser
}

func TestComplete(t *testing.T) {
	t.Parallel()
	parser := model(t)
	for words, want := range map[string]string{
		"ta":                          "tag task",
		"task l":                      "list",
		"task list --st":              "--state",
		"task list --output ":         "json table",
		"task list -o j":              "json",
		"task list --output=json --n": "--name",
		"--config x task s":           "show",
		"completion ":                 "bash fish zsh",
		"sign team/app:v1 --wa":       "--wait",
		"sign --service ":             "",
		"version l":                   "list",
		"unknown":                     "",
		"__":                          "",
	} {
		if got := strings.Join(complete(parser.Model.Node, strings.Split(words, " ")), " "); got != want {
			t.Errorf("%q: %q, want %q", words, got, want)
		}
	}
	if got := complete(parser.Model.Node, nil); !slices.Contains(got, "sign") || slices.Contains(got, "__complete") {
		t.Errorf("without words: %v", got)
	}
}

// TestShells lets each installed shell check its script, and bash complete a word with it.
func TestShells(t *testing.T) {
	t.Parallel()
	for shell, check := range map[string][]string{"bash": {"-n"}, "zsh": {"-n"}, "fish": {"--no-execute"}} {
		script := call(t, []string{"countersign", "completion", shell})
		if script.err != nil {
			t.Fatal(script.err)
		}
		if path, err := exec.LookPath(shell); errors.Is(err, exec.ErrNotFound) {
			t.Logf("%s is not installed: its script is not checked", shell)
		} else {
			c := exec.CommandContext(t.Context(), path, check...)
			c.Stdin = strings.NewReader(script.out)
			if said, err := c.CombinedOutput(); err != nil || len(said) > 0 {
				t.Errorf("%s: %v: %s", shell, err, said)
			}
		}
	}
	script := call(t, []string{"countersign", "completion", "bash"}).out
	test := `countersign() { local IFS=' '; printf '%s\n' "$*"; }` + "\n" + script + `
COMP_WORDS=(countersign task li) COMP_CWORD=2
_countersign
printf '<%s>' "${COMPREPLY[@]}"`
	c := exec.CommandContext(t.Context(), "bash", "-c", test)
	if got, err := c.Output(); err != nil || string(got) != "<__complete -- task li>" {
		t.Errorf("bash asks %q, %v", got, err)
	}
	if got := call(t, []string{"countersign", "__complete", "--", "task", "li"}); got.err != nil || got.out != "list\n" {
		t.Errorf("completion: %q, %v", got.out, got.err)
	}
}

// TestManual formats the manual page without warnings, and looks for each command in it.
func TestManual(t *testing.T) {
	t.Parallel()
	page := call(t, []string{"countersign", "man"})
	if page.err != nil {
		t.Fatal(page.err)
	}
	for _, text := range []string{"\n.SS sign <ref> ...\n", "\n.SS mirror add <name> <source>\n", "\n.SS user add <name>\n", "\n.B 130\n", `\-\-server=URL`} {
		if !strings.Contains(page.out, text) {
			t.Errorf("the page lacks %q", text)
		}
	}
	if strings.Contains(page.out, "__complete") {
		t.Error("the page has a hidden command")
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skipf("the page is not formatted: %v", err)
	}
	var errOut bytes.Buffer
	c := exec.CommandContext(t.Context(), groff, "-man", "-ww", "-Tutf8", "-z")
	c.Stdin, c.Stderr = strings.NewReader(page.out), &errOut
	if err := c.Run(); err != nil || errOut.Len() > 0 {
		t.Errorf("%v: %s", err, errOut.String())
	}
}

func TestTables(t *testing.T) {
	t.Parallel()
	tab := table{header: []string{"NAME", "STATE", "X"}}
	tab.rows = append(tab.rows, []cell{{text: "ä"}, {"done", green}, {text: ""}}, []cell{{text: "evil\x1b[2J\n"}, {"no", red}, {text: "y"}})
	var plain, coloured bytes.Buffer
	if err := errors.Join(tab.write(&plain, false), tab.write(&coloured, true)); err != nil {
		t.Fatal(err)
	}
	if want := "NAME       STATE  X\nä          done\nevil�[2J�  no     y\n"; plain.String() != want {
		t.Errorf("%q, want %q", plain.String(), want)
	}
	if want := "NAME       STATE  X\nä          \x1b[32mdone\x1b[0m\nevil�[2J�  \x1b[31mno\x1b[0m     y\n"; coloured.String() != want {
		t.Errorf("%q, want %q", coloured.String(), want)
	}
}

func TestBar(t *testing.T) {
	t.Parallel()
	total := int64(40)
	for _, tt := range []struct {
		text    string
		done    int64
		columns int
		want    string
	}{
		{text: "app  Signing: 20 of 40", done: 20, columns: 80, want: "app  Signing: 20 of 40 [===============               ]"},
		{text: "app  Signing: 40 of 40", done: 40, columns: 80, want: "app  Signing: 40 of 40 [" + strings.Repeat("=", 30) + "]"},
		{text: "app  Signing: 20 of 40", done: 20, columns: 30, want: "app  Signing: 20 of 40"},
		{text: "a very long text", done: 20, columns: 8, want: "a very "},
		{text: "more than all", done: 90, columns: 80, want: "more than all [" + strings.Repeat("=", 30) + "]"},
	} {
		if got := bar(tt.text, progress{Total: &total, Done: tt.done}, tt.columns); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
	if got := bar("x", progress{Done: 3}, 80); got != "x" {
		t.Errorf("without a total: %q", got)
	}
}

func TestReferences(t *testing.T) {
	t.Parallel()
	digest := "sha256:" + strings.Repeat("a", 64)
	for text, want := range map[string]string{
		"app":                               "||app||",
		"team/app:v1":                       "||team/app|v1|",
		"registry.example/app:v1":           "|registry.example|app|v1|",
		"localhost/app":                     "|localhost|app||",
		"localhost:5000/team/app@" + digest: "|localhost:5000|team/app||" + digest,
		"[::1]:5000/app:v1":                 "|[::1]:5000|app|v1|",
		"team.a/app":                        "|team.a|app||",
		"app:v1@" + digest:                  "error",
		"app@sha256:1":                      "error",
		"Team/App:v1":                       "error",
		"app:":                              "error",
		"":                                  "error",
		"a b":                               "error",
	} {
		r, err := parseReference(text)
		got := fmt.Sprintf("|%s|%s|%s|%s", r.host, r.path, r.tag, r.digest)
		if err != nil {
			got = "error"
			if exitStatus("sign", err) != statusUsage {
				t.Errorf("%s: status %d", text, exitStatus("sign", err))
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}
