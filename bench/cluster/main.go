// Command cluster measures a whole cluster as a user meets it: how long until
// it is ready, until a pod runs, how many start at a time, and what it costs
// when idle. It runs bin/proa in network namespaces of its own and prints the
// table that bench/cluster.md keeps.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const inside = "PROA_BENCH_INSIDE"

var (
	binary = flag.String("proa", "bin/proa", "the binary")
	image  = flag.String("image", "bin/images/busybox.tar", "the archive that the pods' image comes from")
	runs   = flag.Int("runs", 5, "how often each start is measured")
	idle   = flag.Duration("idle", time.Minute, "how long the idle cluster is watched")
)

func main() {
	flag.Parse()
	do := enter
	if os.Getenv(inside) != "" {
		do = measure
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "bench/cluster:", err)
		os.Exit(1)
	}
}

// enter runs this program again in namespaces of its own.
func enter() error {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	return cmd.Run()
}

func measure() error {
	if err := furnish(); err != nil {
		return fmt.Errorf("preparing the namespace: %w", err)
	}
	fmt.Printf("| what | measured |\n|---|---|\n")
	for _, part := range []func() error{starts, pods, atRest} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// furnish gives the namespace loopback and a link with an address.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	host := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "host0"}}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 168, 77, 10).To4(), Mask: net.CIDRMask(24, 32)}}
	return errors.Join(netlink.LinkSetUp(lo), netlink.LinkAdd(host), netlink.AddrAdd(host, addr), netlink.LinkSetUp(host))
}

// machine is one running proa.
type machine struct {
	dir   string
	cmd   *exec.Cmd
	began time.Time
	ready struct {
		Seconds    float64 `json:"seconds"`
		Kubeconfig string  `json:"kubeconfig"`
	}
}

func (m *machine) dirs() []string {
	return []string{"--data-dir", filepath.Join(m.dir, "data"), "--run-dir", filepath.Join(m.dir, "run")}
}

// newMachine brings the image and starts a cluster; took is from exec to the
// ready line.
func newMachine() (m *machine, took time.Duration, err error) {
	m = &machine{}
	if m.dir, err = os.MkdirTemp("", "proa-b-"); err != nil {
		return nil, 0, err
	}
	if err := m.proa("image", "import", *image); err != nil {
		return m, 0, err
	}
	err = m.start(&took)
	return m, took, err
}

func (m *machine) start(took *time.Duration) error {
	m.cmd = exec.Command(*binary, append([]string{"up", "-o", "json", "--node-name", "one"}, m.dirs()...)...)
	m.cmd.Env, m.cmd.Stderr = append(os.Environ(), "HOME="+m.dir), os.Stderr
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	m.began = time.Now()
	if err := m.cmd.Start(); err != nil {
		return err
	}
	if err := json.NewDecoder(out).Decode(&m.ready); err != nil {
		return fmt.Errorf("proa up did not get ready: %w", err)
	}
	*took = time.Since(m.began)
	return nil
}

func (m *machine) proa(args ...string) error {
	cmd := exec.Command(*binary, append(args, m.dirs()...)...)
	cmd.Env = append(os.Environ(), "HOME="+m.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("proa %v: %w: %s", args, err, out)
	}
	return nil
}

func (m *machine) remove() error {
	err := m.proa("reset", "--yes")
	if m.cmd != nil {
		_ = m.cmd.Wait() // its exit code says nothing of a measurement
	}
	return errors.Join(err, os.RemoveAll(m.dir))
}

// starts measures exec → ready and exec → first pod Running on an empty
// machine that has the image.
func starts() error {
	var ready, first []time.Duration
	for range *runs {
		took, pod, err := coldStart()
		if err != nil {
			return err
		}
		ready, first = append(ready, took), append(first, pod)
	}
	row("exec → ready, median of %d", *runs, "%.2f s (%.2f to %.2f)", median(ready).Seconds(), slices.Min(ready).Seconds(), slices.Max(ready).Seconds())
	row("exec → first pod Running, median of %d", *runs, "%.2f s (%.2f to %.2f)", median(first).Seconds(), slices.Min(first).Seconds(), slices.Max(first).Seconds())
	return nil
}

func coldStart() (ready, first time.Duration, err error) {
	m, ready, err := newMachine()
	if m != nil {
		defer func() { err = errors.Join(err, m.remove()) }()
	}
	if err != nil {
		return 0, 0, err
	}
	c, err := m.client()
	if err != nil {
		return 0, 0, err
	}
	_, err = c.run(context.Background(), "first")
	return ready, time.Since(m.began), err
}

func row(what string, n int, format string, args ...any) {
	fmt.Printf("| "+what+" | "+format+" |\n", append([]any{n}, args...)...)
}

func median(d []time.Duration) time.Duration { return quantile(d, 0.5) }

func quantile(d []time.Duration, q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(d))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
