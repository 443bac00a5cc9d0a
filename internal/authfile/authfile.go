// Package authfile finds the credentials that `podman login`, `docker login` and similar programs have stored.
//
// The format of the files is described in containers-auth.json(5). It is that of docker's config.json.
package authfile

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
)

// tokenUser is the user name that docker stores with a token that it has in exchange for a password.
const tokenUser = "<token>"

// Login is a user name with a password.
type Login struct {
	Username, Password string
	// Source is the file or program that has the login.
	Source string
}

// Environment is the surroundings that determine the places of the files.
type Environment struct {
	Getenv func(string) string
	Home   string // home directory; may be empty
	UID    int
}

// file is a file with logins.
type file struct {
	Auths       map[string]entry  `json:"auths"`
	CredHelpers map[string]string `json:"credHelpers"`
	CredsStore  string            `json:"credsStore"`
}

// entry is a login in a file.
type entry struct {
	Auth          string `json:"auth"` // base64 of USER:PASSWORD
	IdentityToken string `json:"identitytoken"`
}

// Paths returns the paths of the files, the first of which with a login is used. REGISTRY_AUTH_FILE replaces all others.
func (e Environment) Paths() []string {
	if path := e.Getenv("REGISTRY_AUTH_FILE"); path != "" {
		return []string{path}
	}
	paths := []string{"/run/containers/" + strconv.Itoa(e.UID) + "/auth.json"}
	if dir := e.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		paths[0] = filepath.Join(dir, "containers/auth.json")
	}
	config := e.Getenv("XDG_CONFIG_HOME")
	if config == "" && e.Home != "" {
		config = filepath.Join(e.Home, ".config")
	}
	if config != "" {
		paths = append(paths, filepath.Join(config, "containers/auth.json"))
	}
	if dir := e.Getenv("DOCKER_CONFIG"); dir != "" {
		return append(paths, filepath.Join(dir, "config.json"))
	}
	if e.Home != "" {
		paths = append(paths, filepath.Join(e.Home, ".docker/config.json"))
	}
	return paths
}

// Find returns the login for a repository of a registry, or nil if there is none. host is HOST[:PORT]; repository may be
// empty. Of several logins in a file the one for the longest part of host/repository is used.
func (e Environment) Find(host, repository string) (*Login, error) {
	for _, path := range e.Paths() {
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		f, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		found, err := f.find(host, repository)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if found != nil {
			if found.Source == "" {
				found.Source = path
			}
			return found, nil
		}
	}
	return nil, nil //nolint:nilnil // no login is a result
}

func parse(text []byte) (file, error) {
	var f file
	err := json.Unmarshal(text, &f)
	return f, err
}

// find returns the login of a file, or nil if it has none.
func (f file) find(host, repository string) (*Login, error) {
	if helper := f.CredHelpers[host]; helper != "" {
		return fromHelper(helper, host)
	}
	for key := strings.TrimSuffix(host+"/"+repository, "/"); ; {
		if e, ok := f.Auths[key]; ok && !e.empty() {
			return e.login(key)
		}
		i := strings.LastIndexByte(key, '/')
		if i < 0 {
			break
		}
		key = key[:i]
	}
	for key, e := range f.Auths {
		if hostOf(key) == host && !e.empty() {
			return e.login(key)
		}
	}
	if f.CredsStore != "" {
		return fromHelper(f.CredsStore, host)
	}
	return nil, nil //nolint:nilnil // no login is a result
}

// hostOf returns the host of docker's keys, which may be URLs. A key with a path that is no URL is for that path only.
func hostOf(key string) string {
	rest, isURL := strings.CutPrefix(key, "https://")
	if !isURL {
		rest, isURL = strings.CutPrefix(key, "http://")
	}
	if !isURL {
		return key
	}
	host, _, _ := strings.Cut(rest, "/")
	return host
}

// empty reports whether an entry has no login: docker keeps such entries for hosts whose login is in the store.
func (e entry) empty() bool { return e.Auth == "" && e.IdentityToken == "" }

// login returns the login of an entry. docker replaces a password by the token that it has in exchange for it: here an
// API token, which is accepted as a password.
func (e entry) login(key string) (*Login, error) {
	text, err := base64.StdEncoding.DecodeString(e.Auth)
	if err != nil {
		return nil, fmt.Errorf("the login for %s is not base64", key)
	}
	username, password, found := strings.Cut(strings.TrimRight(string(text), "\x00"), ":")
	if password == "" {
		password = e.IdentityToken
	}
	if !found || username == "" || username == tokenUser || password == "" {
		return nil, fmt.Errorf("the login for %s has no user name or no password: log in again", key)
	}
	return &Login{Username: username, Password: password}, nil
}

// helperName is the form of a helper's name, which is part of the name of a program.
var helperName = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// fromHelper returns the login that a credential helper has for a host, or nil if it has none.
func fromHelper(helper, host string) (*Login, error) {
	if !helperName.MatchString(helper) {
		return nil, fmt.Errorf("%q is not the name of a credential helper", helper)
	}
	program := "docker-credential-" + helper
	found, err := client.Get(client.NewShellProgramFunc(program), host)
	switch {
	case credentials.IsErrCredentialsNotFound(err):
		return nil, nil //nolint:nilnil // no login is a result
	case err != nil:
		return nil, fmt.Errorf("%s: %w", program, err)
	case found.Username == tokenUser || found.Username == "":
		return nil, fmt.Errorf("%s has a token without a user name for %s: set the user name and the password in variables", program, host)
	}
	return &Login{Username: found.Username, Password: found.Secret, Source: program}, nil
}
