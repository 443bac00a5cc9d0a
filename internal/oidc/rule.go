package oidc

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/countersign/countersign/internal/glob"
)

// Rule grants rights to the tokens of one project.
type Rule struct {
	// Name identifies the rule: its account is oidc:<name>.
	Name string
	// Issuer is the URL of a configured issuer.
	Issuer string
	// Audience is the exact and only audience of a token.
	Audience string
	// Claims are the claims that a token must have, each with one of the values. A value is exact, or a prefix followed
	// by *. The prefix alone does not match.
	Claims map[string][]string
	// Grants are the rights of the rule.
	Grants []Grant
}

// Grant is a part of the rights of a rule.
type Grant struct {
	// Role is the name of a role. Its permissions apply to repositories and distributions of matching names.
	Role string
	// Repositories are names, or prefixes followed by *. A * matches slashes.
	Repositories []string
	// SigningServices are the names of signing services that may sign content of these repositories.
	SigningServices []string
}

// Covers reports whether the grant applies to the name of a repository or to the base path of a distribution.
func (g Grant) Covers(name string) bool {
	return slices.ContainsFunc(g.Repositories, func(pattern string) bool { return glob.MatchName(pattern, name) })
}

// ruleName is the form of Rule.Name. The account's name fits into the column.
var ruleName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// reserved are the claims that rules cannot match, because Verify does.
var reserved = []string{"iss", "aud", "exp", "iat", "nbf", "jti"}

// check returns the errors of a rule, or nil. taken reports that an earlier rule has its name, known that its issuer is
// configured.
func (r Rule) check(taken, known bool) error {
	var invalid []error
	wrong := func(format string, args ...any) {
		invalid = append(invalid, fmt.Errorf("oidc.rules: %s: "+format, append([]any{r.Name}, args...)...))
	}
	if !ruleName.MatchString(r.Name) {
		wrong("name: want up to 100 letters, digits, dots, dashes and underscores")
	}
	if taken {
		wrong("another rule has this name")
	}
	if !known {
		wrong("issuer: %q is not in oidc.issuers", r.Issuer)
	}
	if r.Audience == "" {
		wrong("audience: want the audience that the job requests for this server, such as its public_url")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Claims)) {
		if err := checkClaim(name, r.Claims[name]); err != nil {
			wrong("claims: %s: %w", name, err)
		}
	}
	if !r.bindsProject() {
		wrong("claims: no claim restricts the rule to one project, so that others at %s could use it; "+
			"add an exact value of one of %s", r.Issuer, strings.Join(projectClaims(), ", "))
	}
	if len(r.Grants) == 0 {
		wrong("grants: want at least one")
	}
	for _, g := range r.Grants {
		if err := g.check(); err != nil {
			wrong("grants: %w", err)
		}
	}
	return errors.Join(invalid...)
}

func (g Grant) check() error {
	if g.Role == "" {
		return errors.New("role: want the name of a role, such as container.containernamespace_collaborator")
	}
	if len(g.Repositories) == 0 {
		return fmt.Errorf("repositories of %s: want names, or prefixes followed by *", g.Role)
	}
	for _, pattern := range g.Repositories {
		prefix, open := strings.CutSuffix(pattern, "*")
		if strings.Contains(prefix, "*") || pattern == "" {
			return fmt.Errorf("repositories of %s: want a name, or a prefix followed by *, got %q", g.Role, pattern)
		}
		if open && prefix != "" && !strings.Contains(prefix, "/") {
			return fmt.Errorf("repositories of %s: %q matches other namespaces that begin with %s; write %[3]s/*",
				g.Role, pattern, prefix)
		}
	}
	if slices.Contains(g.SigningServices, "") {
		return fmt.Errorf("signing_services of %s: a name is empty", g.Role)
	}
	return nil
}

func checkClaim(name string, values []string) error {
	if slices.Contains(reserved, name) {
		return errors.New("rules match this claim by issuer and audience, or not at all")
	}
	if len(values) == 0 {
		return errors.New("want at least one value")
	}
	for _, value := range values {
		if prefix := strings.TrimSuffix(value, "*"); prefix == "" || strings.Contains(prefix, "*") {
			return fmt.Errorf("want a value, or a prefix followed by *, got %q", value)
		}
	}
	return nil
}

// idClaims and nameClaims are the claims that name one project, at GitHub, GitLab, Bitbucket and CircleCI. A name can
// get another owner, an id cannot.
var (
	idClaims   = []string{"repository_id", "project_id", "repositoryUuid", "oidc.circleci.com/project-id"}
	nameClaims = []string{"sub", "repository", "project_path"}
)

// github is the issuer of GitHub. Each project there chooses the claims in its subjects, so that a subject such as
// environment:prod can be that of any project: one that names a project contains repo, repository or repository_id.
const github = "https://token.actions.githubusercontent.com"

var subjectAtGitHub = regexp.MustCompile(
	`(?:^|:)(?:(?:repo|repository):[^:/*]+/[^:/*]+|repository_id:[0-9]+)(?::|$)`)

func projectClaims() []string { return slices.Concat(idClaims, nameClaims) }

// The subjects of GitHub and GitLab begin with the project. GitHub's contain ids in new repositories:
// repo:OWNER@ID/NAME@ID:ref:refs/heads/main.
var (
	subjectOfProject = regexp.MustCompile(`^(repo:[^:/*]+/[^:/*]+|project_path:[^:*]+/[^:/*]+):`)
	subjectWithID    = regexp.MustCompile(`^repo:[^:/]+@[0-9]+/[^:/]+@[0-9]+:`)
)

// bindsProject reports whether all tokens that the rule accepts are of projects that it names.
func (r Rule) bindsProject() bool {
	return slices.ContainsFunc(projectClaims(), func(name string) bool {
		return allOf(r.Claims[name], func(value string) bool {
			if name == "sub" && strings.HasPrefix(r.Issuer, github) {
				return subjectAtGitHub.MatchString(value)
			}
			return exact(value) || name == "sub" && subjectOfProject.MatchString(value)
		})
	})
}

// bindsByID reports whether the rule names its projects by ids, or by a subject of another form, which is for the
// operator to judge.
func (r Rule) bindsByID() bool {
	if slices.ContainsFunc(idClaims, func(name string) bool { return allOf(r.Claims[name], exact) }) {
		return true
	}
	return allOf(r.Claims["sub"], func(value string) bool {
		return subjectWithID.MatchString(value) || exact(value) && !subjectOfProject.MatchString(value)
	})
}

func exact(value string) bool { return !strings.HasSuffix(value, "*") }

// allOf reports whether there are values and a condition holds for each of them.
func allOf(values []string, condition func(string) bool) bool {
	return len(values) > 0 && !slices.ContainsFunc(values, func(v string) bool { return !condition(v) })
}

// matches reports whether a token has the claims of the rule. A list, an object and null match nothing.
func (r Rule) matches(c claims) bool {
	for name, values := range r.Claims {
		text, ok := c.text(name)
		if !ok || !slices.ContainsFunc(values, func(value string) bool { return matchValue(value, text) }) {
			return false
		}
	}
	return true
}

// matchValue reports whether the text of a claim is a value of a rule, or begins with it and goes on.
func matchValue(value, text string) bool {
	prefix, open := strings.CutSuffix(value, "*")
	if open {
		return strings.HasPrefix(text, prefix) && len(text) > len(prefix)
	}
	return text == value
}
