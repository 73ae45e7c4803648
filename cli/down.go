package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"proa/cluster"
	"proa/control"
	"proa/network"
	"proa/proxy"
	"proa/runtime"
)

// stopping is how long an orderly stop may take: with pods, the longest usual
// grace period and some.
const stopping = 5 * time.Minute

func printJSONLine(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

func downCommand() *cobra.Command {
	var w where
	var pods bool
	cmd := &cobra.Command{
		Use: "down", Short: "Stop the running cluster", Args: cobra.NoArgs,
		Long: `Stop the cluster that runs on this machine. Its pods run on, unless --pods; the
next "up" finds them, or starts them again.`,
		Example: `  proa down
  proa down --pods
  proa down --data-dir /srv/second`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i, err := w.find()
			if errors.Is(err, control.ErrNone) && pods {
				return w.stopOrphans(cmd)
			}
			if err != nil {
				return err
			}
			if err := stopInstance(cmd.Context(), i, pods); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "stopped", i.DataDir)
			return nil
		},
	}
	w.flags(cmd)
	cmd.Flags().BoolVar(&pods, "pods", false, "stop its pods too")
	return cmd
}

func stopInstance(ctx context.Context, i control.Instance, pods bool) error {
	url := "http://proa/stop"
	if pods {
		url += "?pods=true"
	}
	resp, err := i.Client().Post(url, "", nil)
	if err != nil {
		return fmt.Errorf("the cluster (pid %d) does not answer on its socket: %w", i.PID, err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusConflict {
		return fmt.Errorf("the cluster (pid %d) answered %s", i.PID, resp.Status)
	}
	ctx, cancel := context.WithTimeout(ctx, stopping)
	defer cancel()
	return i.Gone(ctx)
}

// stopOrphans stops pods whose proa is gone already.
func (w where) stopOrphans(cmd *cobra.Command) error {
	dataDir, runDir := w.or()
	release, err := lockBoth(dataDir, runDir)
	if err != nil {
		return err
	}
	defer release()
	if err := runtime.Cleanup(filepath.Join(dataDir, "runtime"), filepath.Join(runDir, "runtime"), control.CgroupRoot(dataDir)); err != nil {
		return err
	}
	fmt.Fprintln(cmd.OutOrStdout(), "no cluster was running; its pods are stopped")
	return nil
}

func lockBoth(dirs ...string) (release func(), err error) {
	var releases []func()
	release = func() {
		for _, r := range releases {
			r()
		}
	}
	for _, dir := range dirs {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			continue
		}
		r, err := control.Lock(dir)
		if err != nil {
			release()
			return nil, err
		}
		releases = append(releases, r)
	}
	return release, nil
}

func resetCommand() *cobra.Command {
	var w where
	var yes bool
	cmd := &cobra.Command{
		Use: "reset", Short: "Remove the cluster and everything it made", Args: cobra.NoArgs,
		Long: `Stop the cluster and remove everything it made on this machine: pods, mounts,
links, routes, nftables tables, cgroups, and both directories with all data.`,
		Example: `  sudo proa reset --yes
  sudo proa reset --yes --data-dir /srv/second --run-dir /run/second`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dataDir, runDir := w.or()
			i, err := w.find()
			switch {
			case err == nil:
				dataDir, runDir = i.DataDir, i.RunDir
			case !errors.Is(err, control.ErrNone):
				return err
			}
			if !yes {
				return fmt.Errorf("this removes the cluster in %s and all its data for good: say --yes to do it", dataDir)
			}
			if err == nil {
				if err := stopInstance(cmd.Context(), i, false); err != nil {
					return err
				}
			}
			if err := remove(dataDir, runDir); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "nothing is left of", dataDir)
			return nil
		},
	}
	w.flags(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	return cmd
}

// remove takes away all that an instance made. It can be run again after a
// failure, and without an instance.
func remove(dataDir, runDir string) error {
	if err := looksOurs(dataDir); err != nil {
		return err
	}
	release, err := lockBoth(dataDir, runDir)
	if err != nil {
		return err
	}
	defer release()
	err = runtime.Cleanup(filepath.Join(dataDir, "runtime"), filepath.Join(runDir, "runtime"), control.CgroupRoot(dataDir))
	if err != nil {
		return fmt.Errorf("stopping pods: %w", err)
	}
	if err := unmountBelow(dataDir, runDir); err != nil {
		return err
	}
	unlinkKubeconfig(filepath.Join(dataDir, "kubeconfig"))
	return errors.Join(proxy.Cleanup(), network.Cleanup(), os.RemoveAll(dataDir), os.RemoveAll(runDir), control.Forget())
}

// looksOurs guards against removing a directory that a slip of the hand named:
// it must hold nothing but what an instance, or what is left of one, has.
func looksOurs(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if !slices.Contains(cluster.DataEntries, e.Name()) {
			return fmt.Errorf("%s was not made by proa (it holds %s): nothing was removed; name the cluster's directory with --data-dir", dir, e.Name())
		}
	}
	return nil
}

// unmountBelow takes away what pods had mounted in the directories: volumes in
// memory, and whatever a pod mounted on from there.
func unmountBelow(dirs ...string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	const pointField = 4 // proc(5)
	var points []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > pointField && slices.ContainsFunc(dirs, func(d string) bool {
			return strings.HasPrefix(f[pointField], d+"/")
		}) {
			points = append(points, f[pointField])
		}
	}
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmounting %s: %w", point, err)
		}
	}
	return nil
}
