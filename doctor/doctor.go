// Package doctor checks whether this machine can carry a cluster and says, for
// each thing that it cannot, what to do about it. `proa up` runs the same checks
// first. Checks look and never change the machine.
package doctor

import (
	"fmt"
	"os"
	"path/filepath"
)

// State is a check's outcome.
type State string

const (
	OK   State = "ok"
	Warn State = "warn" // works, with a limit that the user should know of
	Fail State = "fail" // up would not work
)

// Result is what one check found.
type Result struct {
	Check string `json:"check"`
	State State  `json:"state"`
	Found string `json:"found"`
	// Fix is one sentence: what to do. Empty when State is OK.
	Fix string `json:"fix,omitempty"`
}

// Config says what is to be run here.
type Config struct {
	DataDir string
	APIPort int
	// Address is the one the API is to listen on.
	Address string
	// Node is false for a control plane alone, which needs no privileges.
	Node bool
	// Reserve tells how much of a file system of some bytes the datastore keeps
	// back: with less free space it refuses what grows. Nil for nothing.
	Reserve func(total int64) int64
	// Running skips the checks that a running instance would fail by itself
	// (its own ports).
	Running bool
}

// Run does all checks that matter for the configuration.
func Run(c Config) []Result {
	checks := []func(Config) Result{disk, inodes, clock, files}
	if !c.Running {
		checks = append(checks, apiPort)
	}
	if c.Node {
		checks = append(checks, root, kernel, namespaces, overlay, netfilter, cgroups, limits, inotify, forwarding, resolvers)
		if !c.Running {
			checks = append(checks, kubeletPort)
		}
	}
	out := make([]Result, 0, len(checks))
	for _, check := range checks {
		out = append(out, check(c))
	}
	return out
}

// Failed returns the results that stand in the way.
func Failed(results []Result) (out []Result) {
	for _, r := range results {
		if r.State == Fail {
			out = append(out, r)
		}
	}
	return out
}

func ok(check, format string, args ...any) Result {
	return Result{Check: check, State: OK, Found: fmt.Sprintf(format, args...)}
}

func bad(state State, check, found, fix string) Result {
	return Result{Check: check, State: state, Found: found, Fix: fix}
}

// existing returns the nearest directory above path that exists.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}
