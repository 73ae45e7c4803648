package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"proa/cluster"
	"proa/control"
)

func snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "snapshot", Short: "Save everything in one file, and restore it",
		Long: `A snapshot is every object of the cluster at one moment, together with what makes
the cluster itself: its authorities, keys and the key of its Secrets. Keep it as
safe as the machine. Images and volumes are not in it.`,
		Example: `  sudo proa snapshot save cluster.snapshot     while the cluster runs
  proa snapshot ls cluster.snapshot            what is in it, and is it whole
  sudo proa snapshot restore cluster.snapshot --data-dir /var/lib/proa`,
	}
	cmd.AddCommand(snapshotSave(), snapshotRestore(), snapshotList())
	return cmd
}

func snapshotSave() *cobra.Command {
	var w where
	cmd := &cobra.Command{
		Use: "save FILE", Short: `Save the cluster in a file ("-": standard output) without stopping it`, Args: cobra.ExactArgs(1),
		Example: `  sudo proa snapshot save cluster.snapshot
  sudo proa snapshot save - | ssh backup 'cat > cluster.snapshot'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			save, err := w.source(cmd.Context())
			if err != nil {
				return err
			}
			if args[0] == "-" {
				return save(cmd.OutOrStdout())
			}
			contents, err := saveFile(args[0], save)
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "%d objects at revision %d are saved in %s\n", total(contents), contents.Revision, args[0])
			}
			return err
		},
	}
	w.flags(cmd)
	return cmd
}

// source saves from the running instance, or from the directory of one that is
// stopped.
func (w where) source(ctx context.Context) (func(io.Writer) error, error) {
	i, err := w.find()
	if errors.Is(err, control.ErrNone) {
		dataDir, _ := w.or()
		return func(out io.Writer) error { return cluster.SaveStopped(ctx, out, dataDir, Version) }, nil
	}
	if err != nil {
		return nil, err
	}
	return func(out io.Writer) error { return fetchSnapshot(ctx, i, out) }, nil
}

func fetchSnapshot(ctx context.Context, i control.Instance, out io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://proa/snapshot?version="+Version, nil)
	if err != nil {
		return err
	}
	resp, err := i.Client().Do(req)
	if err != nil {
		return fmt.Errorf("the cluster (pid %d) does not answer on its socket: %w", i.PID, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return fmt.Errorf("the cluster (pid %d) cannot be saved now: %s", i.PID, strings.TrimSpace(string(text)))
	}
	_, err = io.Copy(out, resp.Body)
	return err
}

// saveFile writes beside the file, reads what it wrote, and puts it in place
// only then.
func saveFile(path string, save func(io.Writer) error) (contents cluster.SnapshotContents, err error) {
	part, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return contents, err
	}
	defer func() {
		part.Close()
		os.Remove(part.Name())
	}()
	if err := save(part); err != nil {
		return contents, err
	}
	if err := part.Sync(); err != nil {
		return contents, err
	}
	if _, err := part.Seek(0, io.SeekStart); err != nil {
		return contents, err
	}
	if contents, err = cluster.ListSnapshot(bufio.NewReader(part)); err != nil {
		return contents, err
	}
	return contents, os.Rename(part.Name(), path)
}

func total(c cluster.SnapshotContents) (n int) {
	for _, k := range c.Objects {
		n += k
	}
	return n
}

func snapshotRestore() *cobra.Command {
	var dataDir string
	var d cluster.Datastore
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Make an empty data directory that of the saved cluster", Args: cobra.ExactArgs(1),
		Example: `  sudo proa snapshot restore cluster.snapshot --data-dir /var/lib/proa`,
		Long: `Restore a snapshot into an empty data directory, and with --datastore-endpoints
into an etcd that holds nothing of it yet. "proa up" with the same flags then
starts the cluster as it was; clients read everything anew.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			contents, err := cluster.Restore(cmd.Context(), args[0], abs(dataDir), d)
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "%d objects of %s are restored in %s: start the cluster with `proa up`\n", total(contents), contents.Created.Format("2006-01-02 15:04:05"), dataDir)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", control.DefaultDataDir, "the directory to restore into")
	datastoreFlags(cmd.Flags(), &d)
	return cmd
}

func snapshotList() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "ls FILE", Short: "Show what is in a snapshot, and check it", Args: cobra.ExactArgs(1),
		Example: `  proa snapshot ls cluster.snapshot`,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			c, err := cluster.ListSnapshot(bufio.NewReader(f))
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			if out == "json" {
				return printJSON(cmd.OutOrStdout(), c)
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintf(t, "created\t%s\nrevision\t%d\nproa\t%s\nfiles\t%s\n", c.Created.Format("2006-01-02 15:04:05 MST"), c.Revision, c.Version, strings.Join(c.Files, " "))
			for _, resource := range slices.Sorted(maps.Keys(c.Objects)) {
				fmt.Fprintf(t, "%s\t%d\n", resource, c.Objects[resource])
			}
			return t.Flush()
		},
	}
	outputFlag(cmd, &out)
	return cmd
}
