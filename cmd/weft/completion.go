package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// completionSetup is, for each shell, how its script is loaded.
var completionSetup = map[string]string{
	"bash": `In this shell:   source <(weft completion bash)
In every shell:  weft completion bash > /etc/bash_completion.d/weft

It needs the package bash-completion.`,
	"fish": `In this shell:   weft completion fish | source
In every shell:  weft completion fish > ~/.config/fish/completions/weft.fish`,
	"powershell": `In this shell:   weft completion powershell | Out-String | Invoke-Expression
In every shell:  add that line to your PowerShell profile.`,
	"zsh": `In this shell:   source <(weft completion zsh)
In every shell:  weft completion zsh > "${fpath[1]}/_weft"

Completion must be on: autoload -U compinit; compinit`,
}

// describeCompletion adds cobra's completion verb, with words and errors like
// those of the other verbs.
func describeCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	completion, _, err := root.Find([]string{"completion"})
	if err != nil {
		return
	}
	var shells []string
	for _, c := range completion.Commands() {
		shells = append(shells, c.Name())
		c.Use = c.Name()
		c.Short = "Print the completion script for " + c.Name()
		c.Long = fmt.Sprintf("Prints the script with which %s completes weft's verbs and flags.\n\n%s", c.Name(), completionSetup[c.Name()])
		c.Args = args(0, 0, "no arguments")
		c.DisableFlagsInUseLine = true
		if f := c.Flag("no-descriptions"); f != nil {
			f.Usage = "leave out what a verb or flag does"
		}
	}
	completion.SetUsageTemplate(strings.NewReplacer(
		"\n  {{.CommandPath}} VERB", "", "Verbs:", "Shells:", "weft help VERB", "weft help completion SHELL", "how to use a verb", "how to load its script",
	).Replace(root.UsageTemplate()))
	slices.Sort(shells)
	list := strings.Join(shells, ", ")
	completion.Use = "completion SHELL"
	completion.Short = "Print the script with which a shell completes weft's verbs"
	completion.Long = "Prints the script with which a shell completes weft's verbs and flags: " + list + "."
	completion.Example = "  source <(weft completion bash)"
	completion.DisableFlagsInUseLine = true
	completion.Args = cobra.ArbitraryArgs // those of the shells' own verbs do not come here
	completion.RunE = func(cmd *cobra.Command, args []string) error {
		hint := "source <(weft completion bash)"
		if len(args) == 0 {
			return usageHint(cmd, hint, "a shell is needed: the shells are %s", list)
		}
		if meant := didYouMean(args[0], shells); meant != "" {
			hint = meant
		}
		return usageHint(cmd, hint, "no completion for %q: the shells are %s", args[0], list)
	}
}
