package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// resting is how many pods an idle cluster has.
const resting = 3

// atRest measures what the daemon and the shims of three sleeping pods cost.
func atRest() (err error) {
	m, _, err := newMachine()
	if m != nil {
		defer func() { err = errors.Join(err, m.remove()) }()
	}
	if err != nil {
		return err
	}
	c, err := m.client()
	if err != nil {
		return err
	}
	for i := range resting {
		if _, err := c.run(context.Background(), fmt.Sprintf("rest-%d", i)); err != nil {
			return err
		}
	}
	time.Sleep(5 * time.Second) // what starting left behind is collected
	pid := m.cmd.Process.Pid
	before, err := cpu(pid)
	if err != nil {
		return err
	}
	time.Sleep(*idle)
	after, err := cpu(pid)
	if err != nil {
		return err
	}
	row("idle CPU with %d pods", resting, "%.2f %% of a core over %s", 100*(after-before).Seconds()/idle.Seconds(), *idle)
	rss, err := status(pid, "VmRSS")
	if err != nil {
		return err
	}
	anonymous, err := status(pid, "RssAnon")
	row("idle memory with %d pods, the daemon", resting, "%.0f MB RSS, of it %.0f MB anonymous", rss, anonymous)
	shims, pss, err := m.shims()
	if err != nil || shims != resting {
		return errors.Join(err, fmt.Errorf("%d shims for %d pods", shims, resting))
	}
	row("memory of each of %d idle pods beside its own processes", resting, "%.1f MB PSS", pss/float64(shims))
	return nil
}

// cpu is the processor time that a process has used.
func cpu(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	if err == nil && strings.TrimSpace(string(data)) != "" {
		return threads(pid)
	}
	return 0, errors.Join(err, errors.New("the kernel keeps no schedstat"))
}

// threads sums the nanoseconds on a processor of all threads (proc(5)).
func threads(pid int) (sum time.Duration, err error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // the thread ended
		}
		ns, _, _ := strings.Cut(string(data), " ")
		n, err := strconv.ParseInt(ns, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n)
	}
	return sum, err
}

// status reads a size of /proc/PID/status, in MB.
func status(pid int, field string) (float64, error) {
	return sizeIn(fmt.Sprintf("/proc/%d/status", pid), field)
}

func sizeIn(file, field string) (float64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, field)
}

// shims counts this machine's shim processes and adds up their shares of
// memory.
func (m *machine) shims() (n int, pss float64, err error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		line, _ := os.ReadFile(f)
		args := strings.Split(string(line), "\x00")
		if !strings.Contains(filepath.Base(args[0]), "proa-shim") || !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, m.dir) }) {
			continue
		}
		size, err := sizeIn(filepath.Join(filepath.Dir(f), "smaps_rollup"), "Pss")
		if err != nil {
			return n, pss, err
		}
		n, pss = n+1, pss+size
	}
	return n, pss, err
}

func medianOf(list []float64) float64 { return slices.Sorted(slices.Values(list))[len(list)/2] }
