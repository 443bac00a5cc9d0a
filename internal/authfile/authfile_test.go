package authfile_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/internal/authfile"
)

func basic(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// write writes a file below dir and returns its path.
func write(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// environment returns an environment with variables, and a home directory.
func environment(home string, variables map[string]string) authfile.Environment {
	return authfile.Environment{Getenv: func(name string) string { return variables[name] }, Home: home, UID: 4294967294}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		variables map[string]string
		home      string
		want      string
	}{
		"all": {
			variables: map[string]string{"XDG_RUNTIME_DIR": "/run/user/7"}, home: "/home/a",
			want: "/run/user/7/containers/auth.json /home/a/.config/containers/auth.json /home/a/.docker/config.json",
		},
		"without a session": {
			home: "/root", want: "/run/containers/4294967294/auth.json /root/.config/containers/auth.json /root/.docker/config.json",
		},
		"other directories": {
			variables: map[string]string{"XDG_RUNTIME_DIR": "/r", "XDG_CONFIG_HOME": "/c", "DOCKER_CONFIG": "/d"}, home: "/home/a",
			want: "/r/containers/auth.json /c/containers/auth.json /d/config.json",
		},
		"no home":  {want: "/run/containers/4294967294/auth.json"},
		"one file": {variables: map[string]string{"REGISTRY_AUTH_FILE": "/a.json", "DOCKER_CONFIG": "/d"}, home: "/home/a", want: "/a.json"},
	} {
		if got := strings.Join(environment(tt.home, tt.variables).Paths(), " "); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		text, host, repository string
		want                   string // USER:PASSWORD; empty: none
		wantErr                string
	}{
		"host":            {text: `{"auths": {"r.example": {"auth": "` + basic("a:b") + `"}}}`, host: "r.example", want: "a:b"},
		"port":            {text: `{"auths": {"r.example": {"auth": "` + basic("a:b") + `"}}}`, host: "r.example:5000"},
		"colons":          {text: `{"auths": {"r.example": {"auth": "` + basic("a:b:c") + `"}}}`, host: "r.example", want: "a:b:c"},
		"docker's URL":    {text: `{"auths": {"https://r.example/v1/": {"auth": "` + basic("a:b") + `"}}}`, host: "r.example", want: "a:b"},
		"no login":        {text: `{"auths": {}}`, host: "r.example"},
		"empty login":     {text: `{"auths": {"r.example": {}}}`, host: "r.example"},
		"empty file":      {text: `{}`, host: "r.example"},
		"token of docker": {text: `{"auths": {"r.example": {"auth": "` + basic("a:") + `", "identitytoken": "t"}}}`, host: "r.example", want: "a:t"},
		"longest path": {
			text: `{"auths": {"r.example": {"auth": "` + basic("a:1") + `"}, "r.example/team": {"auth": "` + basic("a:2") + `"},
			       "r.example/team/app": {"auth": "` + basic("a:3") + `"}}}`,
			host: "r.example", repository: "team/app/web", want: "a:3",
		},
		"path of others": {
			text: `{"auths": {"r.example": {"auth": "` + basic("a:1") + `"}, "r.example/team": {"auth": "` + basic("a:2") + `"}}}`,
			host: "r.example", repository: "teams/app", want: "a:1",
		},
		"login for a path only": {text: `{"auths": {"r.example/team": {"auth": "` + basic("a:2") + `"}}}`, host: "r.example", repository: "other"},
		"no base64":             {text: `{"auths": {"r.example": {"auth": "?"}}}`, host: "r.example", wantErr: "the login for r.example is not base64"},
		"no password":           {text: `{"auths": {"r.example": {"auth": "` + basic("a:") + `"}}}`, host: "r.example", wantErr: "log in again"},
		"no user":               {text: `{"auths": {"r.example": {"identitytoken": "t"}}}`, host: "r.example", wantErr: "log in again"},
		"no JSON":               {text: `x`, host: "r.example", wantErr: "invalid character"},
		"a path as helper":      {text: `{"credHelpers": {"r.example": "../x"}}`, host: "r.example", wantErr: "not the name of a credential helper"},
		"absent helper":         {text: `{"credHelpers": {"r.example": "absent-helper"}}`, host: "r.example", wantErr: "docker-credential-absent-helper"},
	} {
		path := write(t, t.TempDir(), "auth.json", tt.text)
		got, err := environment("", map[string]string{"REGISTRY_AUTH_FILE": path}).Find(tt.host, tt.repository)
		if (err != nil) != (tt.wantErr != "") || err != nil && (!strings.Contains(err.Error(), tt.wantErr) || !strings.Contains(err.Error(), path)) {
			t.Errorf("%s: error %v, want %q", name, err, tt.wantErr)
		}
		login := ""
		if got != nil {
			login = got.Username + ":" + got.Password
			if got.Source != path {
				t.Errorf("%s: source %s", name, got.Source)
			}
		}
		if login != tt.want {
			t.Errorf("%s: %q, want %q", name, login, tt.want)
		}
	}
}

// TestFirstFile verifies that the first file with a login counts, and that absent files are no error.
func TestFirstFile(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	write(t, home, ".docker/config.json", `{"auths": {"r.example": {"auth": "`+basic("docker:1")+`"}, "d.example": {"auth": "`+basic("docker:2")+`"}}}`)
	write(t, home, ".config/containers/auth.json", `{"auths": {"r.example": {"auth": "`+basic("podman:1")+`"}}}`)
	e := environment(home, nil)
	for host, want := range map[string]string{"r.example": "podman:1", "d.example": "docker:2", "n.example": ""} {
		got, err := e.Find(host, "")
		if err != nil {
			t.Fatal(err)
		}
		if (got == nil) != (want == "") || got != nil && got.Username+":"+got.Password != want {
			t.Errorf("%s: %+v, want %q", host, got, want)
		}
	}
}

// TestHelpers verifies the protocol of credential helpers: for one host, for all hosts, and without a login. It changes the
// variable PATH.
func TestHelpers(t *testing.T) {
	dir := t.TempDir()
	script := `#!/bin/sh
read host
case "$1 $host" in
"get r.example") echo '{"ServerURL": "r.example", "Username": "a", "Secret": "b"}' ;;
"get token.example") echo '{"ServerURL": "r.example", "Username": "<token>", "Secret": "b"}' ;;
*) echo 'credentials not found in native keychain'; exit 1 ;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for name, tt := range map[string]struct{ text, host, want, wantErr string }{
		"for a host":     {text: `{"credHelpers": {"r.example": "test"}}`, host: "r.example", want: "a:b"},
		"for all":        {text: `{"credsStore": "test", "auths": {"r.example": {}}}`, host: "r.example", want: "a:b"},
		"without login":  {text: `{"credsStore": "test"}`, host: "other.example"},
		"token":          {text: `{"credsStore": "test"}`, host: "token.example", wantErr: "has a token without a user name"},
		"for other host": {text: `{"credHelpers": {"other.example": "test"}}`, host: "r.example"},
	} {
		path := write(t, t.TempDir(), "auth.json", tt.text)
		got, err := environment("", map[string]string{"REGISTRY_AUTH_FILE": path}).Find(tt.host, "")
		if (err != nil) != (tt.wantErr != "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
			t.Errorf("%s: error %v, want %q", name, err, tt.wantErr)
		}
		if (got == nil) != (tt.want == "") || got != nil && got.Username+":"+got.Password != tt.want {
			t.Errorf("%s: %+v, want %q", name, got, tt.want)
		}
		if got != nil && got.Source != "docker-credential-test" {
			t.Errorf("%s: source %s", name, got.Source)
		}
	}
}

// FuzzFind verifies that no file causes a panic, and that a login that is found is complete.
func FuzzFind(f *testing.F) {
	for _, seed := range []string{
		`{"auths": {"r.example": {"auth": "YTpi"}}}`, `{"auths": {"https://r.example/v1/": {"auth": "YTpi"}}}`,
		`{"auths": {"r.example/team": {"auth": "YTo=", "identitytoken": "t"}}}`, `{"credHelpers": {"x": ""}}`, `{}`, `[]`, `null`, `{"auths": null}`,
	} {
		f.Add(seed, "r.example", "team/app")
	}
	f.Fuzz(func(t *testing.T, text, host, repository string) {
		if strings.Contains(text, "cred") { // would run programs
			t.Skip()
		}
		path := write(t, t.TempDir(), "auth.json", text)
		got, err := environment("", map[string]string{"REGISTRY_AUTH_FILE": path}).Find(host, repository)
		if err == nil && got != nil && (got.Username == "" || got.Password == "" || got.Source == "") {
			t.Errorf("incomplete: %+v", got)
		}
	})
}
