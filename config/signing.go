package config

import (
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/internal/glob"
)

// The values of Signing.Use.
const (
	UseAssigned         = "assigned"
	UseRepositoryOwners = "repository_owners"
)

// Signing contains settings of the signatures that this server makes.
type Signing struct {
	Parallel      int           `yaml:"parallel" env:"PARALLEL"`             // concurrent signatures of one task
	ScriptTimeout time.Duration `yaml:"script_timeout" env:"SCRIPT_TIMEOUT"` // for one call of a signing script
	TokenWait     time.Duration `yaml:"token_wait" env:"TOKEN_WAIT"`         // for a PKCS #11 token that is unavailable
	WorkDir       string        `yaml:"work_dir" env:"WORK_DIR"`             // of signing scripts. Default: a directory in Data
	// DefaultService is the name of the signing service that the first start on SQLite creates, with a key of its
	// own. Empty: none.
	DefaultService string `yaml:"default_service" env:"DEFAULT_SERVICE"`
	// Use controls access to signing services. With UseAssigned, administrators use all of them, and repositories
	// those that an administrator or a pattern assigned. With UseRepositoryOwners, everybody who may modify a
	// repository may use any service for it.
	Use string `yaml:"use" env:"USE"`
	// Assign assigns signing services to repositories by rules PATTERN=SERVICE, as OnPush does, without signing on
	// push.
	Assign []string `yaml:"assign" env:"ASSIGN"`
	// OnPush enables signing on push by rules PATTERN=SERVICE, in addition to the repositories with sign_on_push. A
	// pattern is a repository name, or a prefix of names followed by *. The first matching rule applies.
	OnPush []string `yaml:"on_push" env:"ON_PUSH"`
	// OnPushFailure controls a push that cannot be signed: refuse, or accept to sign it later by a task.
	OnPushFailure string        `yaml:"on_push_failure" env:"ON_PUSH_FAILURE"`
	OnPushTimeout time.Duration `yaml:"on_push_timeout" env:"ON_PUSH_TIMEOUT"` // for the signatures of one push
}

// ServiceOnPush returns the name of the signing service that OnPush selects for a repository, or "" if no rule matches.
func (s Signing) ServiceOnPush(repository string) string { return firstMatch(s.OnPush, repository) }

// AssignedServices returns the names of the signing services that OnPush and Assign select for a repository, in that
// order.
func (s Signing) AssignedServices(repository string) []string {
	var names []string
	for _, rules := range [][]string{s.OnPush, s.Assign} {
		if name := firstMatch(rules, repository); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// firstMatch returns the service of the first rule PATTERN=SERVICE with a pattern that matches a repository name, or ""
// if there is none.
func firstMatch(rules []string, repository string) string {
	for _, rule := range rules {
		pattern, service, _ := strings.Cut(rule, "=")
		if glob.MatchName(pattern, repository) {
			return service
		}
	}
	return ""
}

// checkRules reports an error if a rule of a setting is not PATTERN=SERVICE.
func checkRules(setting string, rules []string) error {
	return check(!slices.ContainsFunc(rules, func(rule string) bool {
		pattern, service, ok := strings.Cut(rule, "=")
		return !ok || pattern == "" || service == "" || strings.Contains(strings.TrimSuffix(pattern, "*"), "*")
	}), "%s: want PATTERN=SERVICE, with a * at most at the end of the pattern, got %q", setting, rules)
}
