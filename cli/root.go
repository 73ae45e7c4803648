// Package cli is the command line: it turns flags into calls and results into
// something one wants to look at, or with -o json into something a program can
// read. Every failure is one sentence on standard error and a non-zero exit.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"proa/control"
)

// Version is set by the build.
var Version = "dev"

// Main runs the command line and returns the exit code.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(args) > 0 && args[0] == "kubectl" { // its flags are its own
		return kubectl(args[1:])
	}
	root := rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var code exitCode
	if errors.As(err, &code) {
		return int(code)
	}
	fmt.Fprintln(os.Stderr, "proa:", err)
	return 1
}

// exitCode is an error whose story has been told already.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit %d", int(e)) }

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "proa",
		Short: "A whole Kubernetes in one binary",
		Long: `proa is a whole Kubernetes in one binary: "proa up" turns this machine into a
cluster in a second, and kubectl works on it.`,
		Example: `  sudo proa up                          start a cluster, Ctrl-C to stop it
  proa kubectl get nodes                look around
  proa image import app.tar             bring an image that was built here
  proa down --pods                      stop the cluster and its pods
  sudo proa reset --yes                 leave nothing behind`,
		SilenceUsage: true, SilenceErrors: true, Version: Version,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.AddCommand(upCommand(), downCommand(), resetCommand(), imageCommand(), secretsCommand(), certsCommand(), doctorCommand(), snapshotCommand(), kubectlHelp(), versionCommand())
	return root
}

func versionCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Example: `  proa version
  proa version -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "json" {
				return printJSON(cmd.OutOrStdout(), map[string]string{"version": Version, "kubernetes": "v1.37.2"})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "proa %s (Kubernetes API v1.37.2)\n", Version)
			return err
		},
	}
	outputFlag(cmd, &out)
	return cmd
}

// where are the two flags by which every command finds its instance.
type where struct{ dataDir, runDir string }

func (w *where) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.dataDir, "data-dir", "", "the cluster's data directory (default: that of the one that runs, or "+control.DefaultDataDir+")")
	cmd.Flags().StringVar(&w.runDir, "run-dir", "", "the cluster's run directory (default: that of the one that runs, or "+control.DefaultRunDir+")")
}

func (w where) find() (control.Instance, error) { return control.Find(abs(w.dataDir), abs(w.runDir)) }

// or returns the directories for when no instance runs.
func (w where) or() (dataDir, runDir string) {
	dataDir, runDir = control.DefaultDataDir, control.DefaultRunDir
	if w.dataDir != "" {
		dataDir = abs(w.dataDir)
	}
	if w.runDir != "" {
		runDir = abs(w.runDir)
	}
	return dataDir, runDir
}

// abs makes a path of the command line absolute, so that the daemon and later
// commands mean the same one.
func abs(path string) string {
	if path == "" {
		return ""
	}
	if full, err := filepath.Abs(path); err == nil {
		return full
	}
	return path
}

func outputFlag(cmd *cobra.Command, out *string) {
	cmd.Flags().StringVarP(out, "output", "o", "", `"json" for machines`)
	pre := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if *out != "" && *out != "json" {
			return fmt.Errorf("-o %s is not known: leave it out, or use -o json", *out)
		}
		if pre != nil {
			return pre(cmd, args)
		}
		return nil
	}
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
