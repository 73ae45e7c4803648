package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"proa/control"
)

func secretsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "secrets", Short: "Keys that Secrets are encrypted with on disk",
		Long: `Secrets are encrypted on disk with a key that the cluster makes at its first
start and keeps in <data-dir>/encryption.yaml. Back that file up with the data:
without it, the Secrets are lost. With "proa up --encryption-provider-config" the
keys are those of that file instead.`,
		Example: `  sudo proa secrets rotate-key   a new key, everything encrypted anew, the old key dropped
  sudo proa secrets rewrite      encrypt anew what is not encrypted by the first key`,
	}
	cmd.AddCommand(
		secretsAction("rotate-key", "Make a new key, encrypt all Secrets with it and drop the old one, while running",
			func(r control.Resealed) string {
				again := ""
				if r.Resumed {
					again = ", which an earlier rotation had made,"
				}
				return fmt.Sprintf("%d records are encrypted anew with %s%s; dropped: %s", r.Rewritten, r.Key, again, strings.Join(r.Dropped, ", "))
			}),
		secretsAction("rewrite", "Encrypt anew what is not encrypted as the configuration says now",
			func(r control.Resealed) string { return fmt.Sprintf("%d records are encrypted anew", r.Rewritten) }))
	return cmd
}

func secretsAction(name, short string, say func(control.Resealed) string) *cobra.Command {
	var w where
	var out string
	cmd := &cobra.Command{
		Use: name, Short: short, Args: cobra.NoArgs,
		Example: "  sudo proa secrets " + name,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := w.find()
			if err != nil {
				return err
			}
			done, err := i.Secrets(cmd.Context(), name)
			if err != nil {
				return err
			}
			if out == "json" {
				return printJSON(cmd.OutOrStdout(), done)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), say(done))
			return err
		},
	}
	w.flags(cmd)
	outputFlag(cmd, &out)
	return cmd
}
