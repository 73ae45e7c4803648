package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"proa/cluster"
	"proa/doctor"
)

func doctorCommand() *cobra.Command {
	var w where
	var out string
	cfg := doctor.Config{Reserve: cluster.DiskReserve}
	var noNode bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check whether this machine can carry a cluster", Args: cobra.NoArgs,
		Long: `Check this machine: privileges, kernel features, cgroups, ports, disk, clock and
limits. Each problem comes with what to do about it. Exit code 1 if "up" would
not work.`,
		Example: `  sudo proa doctor
  proa doctor --no-node
  sudo proa doctor -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := w.find()
			cfg.Running, cfg.Node = err == nil, !noNode
			cfg.DataDir, _ = w.or()
			results := doctor.Run(cfg)
			if err := printResults(cmd, out, results); err != nil {
				return err
			}
			if len(doctor.Failed(results)) > 0 {
				return exitCode(1)
			}
			return nil
		},
	}
	w.flags(cmd)
	cmd.Flags().StringVar(&cfg.Address, "bind-address", "0.0.0.0", "the address that the API would listen on")
	cmd.Flags().IntVar(&cfg.APIPort, "api-port", cluster.DefaultAPIPort, "the port that the API would listen on")
	cmd.Flags().BoolVar(&noNode, "no-node", false, "check for a control plane alone")
	outputFlag(cmd, &out)
	return cmd
}

func printResults(cmd *cobra.Command, out string, results []doctor.Result) error {
	w := cmd.OutOrStdout()
	if out == "json" {
		return printJSON(w, results)
	}
	for _, r := range results {
		fmt.Fprintf(w, "%-5s %-14s %s\n", r.State, r.Check, r.Found)
		if r.Fix != "" {
			fmt.Fprintf(w, "      %-14s → %s\n", "", r.Fix)
		}
	}
	return nil
}
