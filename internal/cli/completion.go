package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"Shell: bash, zsh or fish."`
}

// Help shows how to use the script.
func (completionCommand) Help() string {
	return `    bash   source <(countersign completion bash)
    zsh    source <(countersign completion zsh)     # after compinit
    fish   countersign completion fish | source

Write the line to the start-up file of the shell, or the script to the directory with its completions.`
}

// scripts have %[1]s for the name of the program and %[2]s for the name of a function. The program completes the words.
var scripts = map[string]string{
	"bash": `# Completion of %[1]s for bash.
_%[2]s() {
    local IFS=$'\n'
    COMPREPLY=($(%[1]s __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _%[2]s %[1]s
`,
	"zsh": `#compdef %[1]s
# Completion of %[1]s for zsh.
_%[2]s() {
    local -a found
    found=(${(f)"$(%[1]s __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then
        compadd -a found
    else
        _files
    fi
}
if [ "$funcstack[1]" = "_%[2]s" ]; then
    _%[2]s "$@"
else
    compdef _%[2]s %[1]s
fi
`,
	"fish": `# Completion of %[1]s for fish.
function __%[2]s_complete
    set -l words (commandline -opc) (commandline -ct)
    %[1]s __complete -- $words[2..-1] 2>/dev/null
end
complete -c %[1]s -a '(__%[2]s_complete)'
`,
}

// Run runs the command.
func (o completionCommand) Run(c *console) error {
	function := strings.Map(func(r rune) rune {
		if r == '-' || r == '.' {
			return '_'
		}
		return r
	}, c.name)
	_, err := fmt.Fprintf(c.out, scripts[o.Shell], c.name, function)
	return err
}

// completeCommand prints the completions of the last of some words, for the scripts.
type completeCommand struct {
	Words []string `arg:"" optional:"" passthrough:""`
}

// Run runs the command.
func (o completeCommand) Run(c *console, k *kong.Kong) error {
	words := o.Words
	if len(words) > 0 && words[0] == "--" {
		words = words[1:]
	}
	for _, word := range complete(k.Model.Node, words) {
		if _, err := fmt.Fprintln(c.out, word); err != nil {
			return err
		}
	}
	return nil
}

// complete returns the completions of the last word, in order: commands, options, or the values of an option.
func complete(node *kong.Node, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	var value *kong.Flag // the option whose value comes next
	for _, word := range words[:len(words)-1] {
		switch {
		case value != nil:
			value = nil
		case strings.HasPrefix(word, "-"):
			if f := findFlag(node, word); f != nil && !f.IsBool() && !strings.Contains(word, "=") {
				value = f
			}
		default:
			if child := findChild(node, word); child != nil {
				node = child
			}
		}
	}
	last := words[len(words)-1]
	var all []string
	switch {
	case value != nil:
		all = value.EnumSlice()
	case strings.HasPrefix(last, "-"):
		for _, group := range node.AllFlags(true) {
			for _, f := range group {
				all = append(all, "--"+f.Name)
			}
		}
	default:
		for _, child := range node.Children {
			if !child.Hidden {
				all = append(all, child.Name)
			}
		}
		for _, p := range node.Positional {
			all = append(all, p.EnumSlice()...)
		}
	}
	all = slices.DeleteFunc(all, func(word string) bool { return word == "" || !strings.HasPrefix(word, last) })
	slices.Sort(all)
	return slices.Compact(all)
}

// findFlag returns the option that a word names, or nil.
func findFlag(node *kong.Node, word string) *kong.Flag {
	name, _, _ := strings.Cut(word, "=")
	for _, group := range node.AllFlags(false) {
		for _, f := range group {
			if "--"+f.Name == name || f.Short != 0 && "-"+string(f.Short) == name {
				return f
			}
		}
	}
	return nil
}

// findChild returns the command with a name, or nil.
func findChild(node *kong.Node, name string) *kong.Node {
	for _, child := range node.Children {
		if child.Name == name || slices.Contains(child.Aliases, name) {
			return child
		}
	}
	return nil
}
