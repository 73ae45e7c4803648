// Command run holds a control plane without a node against Kubernetes' own
// conformance tests: it starts `proa up --no-node` with directories and a port
// of its own, runs the tests of a list, says what passed and what did not, and
// takes everything down again. It ends with a failure unless every test of the
// list ran and passed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

type config struct {
	proa, suite, kubectl string
	list, out            string
	procs, tries         int
	short                bool
	focus                string
	timeout              time.Duration
}

func main() {
	var c config
	flag.StringVar(&c.proa, "proa", "../../bin/proa", "the binary to test")
	flag.StringVar(&c.suite, "suite", "../../bin/conformance", "the directory with e2e.test and ginkgo")
	flag.StringVar(&c.kubectl, "kubectl", "../../bin/kubectl", "the kubectl that the tests use")
	flag.StringVar(&c.list, "list", "nodeless.txt", "the tests to run")
	flag.StringVar(&c.out, "out", "../../bin/conformance/report", "the directory for junit.xml and the logs")
	flag.IntVar(&c.procs, "procs", 6, "how many tests run at once; most of them wait rather than work")
	flag.IntVar(&c.tries, "tries", 1, "how often a test may be tried; those that passed only at a later try are named")
	flag.BoolVar(&c.short, "short", false, "leave out the tests that take minutes whatever they run against")
	flag.StringVar(&c.focus, "focus", "", "run only the tests whose names contain this text")
	flag.DurationVar(&c.timeout, "timeout", 30*time.Minute, "the time for all tests together")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, c)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c config) error {
	if err := c.complete(); err != nil {
		return err
	}
	tests, err := readList(c.list)
	if err != nil {
		return err
	}
	tests = choose(tests, c.short, c.focus)
	if len(tests) == 0 {
		return fmt.Errorf("no test of %s is meant", c.list)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	p, err := startPlane(ctx, c)
	if err != nil {
		return err
	}
	sum, err := c.runAll(ctx, p, tests)
	if stopErr := p.stop(); stopErr != nil {
		err = errors.Join(err, stopErr)
	}
	if sum.started.IsZero() {
		return err
	}
	sum.print(os.Stdout)
	return errors.Join(err, sum.write(filepath.Join(c.out, "junit.xml")), sum.verdict())
}

// complete makes the paths absolute, since the tests run in a directory of their
// own, and looks whether all that is needed is there.
func (c *config) complete() error {
	for _, path := range []*string{&c.proa, &c.suite, &c.kubectl, &c.list, &c.out} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	for _, path := range []string{c.proa, c.tool("e2e.test"), c.tool("ginkgo"), c.kubectl} {
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%w: `make build kubectls conformance-suite` makes it", err)
		}
	}
	return os.MkdirAll(c.out, 0o755)
}

func (c *config) tool(name string) string { return filepath.Join(c.suite, name) }

// runAll runs the tests that need no node without any, so that no pod is bound
// to a node where nobody runs it, and then those that do.
func (c *config) runAll(ctx context.Context, p *plane, tests []test) (sum summary, err error) {
	sum = summary{wanted: tests, started: time.Now()}
	defer func() { sum.took = time.Since(sum.started) }()
	bare, onNodes := split(tests)
	if err := c.phase(ctx, p, &sum, "nodeless", bare); err != nil || len(onNodes) == 0 {
		return sum, err
	}
	leave, err := enterNodes(ctx, p.kubeconfig, "conformance-1", "conformance-2")
	if err != nil {
		return sum, err
	}
	err = c.phase(ctx, p, &sum, "nodes", onNodes)
	return sum, errors.Join(err, leave())
}
