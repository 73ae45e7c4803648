package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/onsi/ginkgo/v2/reporters"
	"github.com/onsi/ginkgo/v2/types"
)

// summary is what became of the tests.
type summary struct {
	wanted  []test
	specs   types.SpecReports
	started time.Time
	took    time.Duration
}

// phase runs tests that need the same and adds what became of them. That some
// failed is no error here.
func (c *config) phase(ctx context.Context, p *plane, sum *summary, name string, tests []test) error {
	if len(tests) == 0 {
		return nil
	}
	log, err := os.Create(filepath.Join(c.out, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	report := name + ".json"
	fmt.Printf("running %d tests (%s), %d at a time; log: %s\n", len(tests), name, c.procs, log.Name())
	cmd := exec.CommandContext(ctx, c.tool("ginkgo"), "--nodes="+strconv.Itoa(c.procs), "--timeout="+c.timeout.String(), "--no-color", "--flake-attempts="+strconv.Itoa(c.tries),
		"--focus="+focusOf(tests), "--output-dir="+c.out, "--json-report="+report, c.tool("e2e.test"), "--",
		"--provider=skeleton", "--kubeconfig="+p.kubeconfig, "--kubectl-path="+c.kubectl, "--dns-domain=cluster.local",
		"--num-nodes=2", "--e2e-verify-service-account=false", "--disable-log-dump")
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, log, log
	cmd.Env = append(os.Environ(), "HOME="+p.dir, "KUBECONFIG=")
	// Ginkgo needs a moment to end its processes and to write what it knows.
	cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(syscall.SIGINT) }, startTime
	var failed *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &failed) {
		return err
	}
	return sum.read(filepath.Join(c.out, report))
}

// read takes the tests that ran from ginkgo's report, which also lists the
// thousands that did not, and removes it.
func (s *summary) read(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("the tests left no report: %w", err)
	}
	var suites []types.Report
	if err := json.Unmarshal(data, &suites); err != nil {
		return err
	}
	for _, suite := range suites {
		for _, spec := range suite.SpecReports {
			isTest := spec.LeafNodeType.Is(types.NodeTypeIt)
			if isTest && !spec.State.Is(types.SpecStateSkipped|types.SpecStatePending) || !isTest && spec.Failed() {
				s.specs = append(s.specs, spec)
			}
		}
	}
	return os.Remove(path)
}

// outcome tells what became of one test; nil if it did not run.
func (s *summary) outcome(name string) *types.SpecReport {
	i := slices.IndexFunc(s.specs, func(r types.SpecReport) bool { return r.FullText() == name })
	if i < 0 {
		return nil
	}
	return &s.specs[i]
}

func (s *summary) print(w io.Writer) {
	passed, failed := 0, 0
	for _, t := range s.wanted {
		switch r := s.outcome(t.name); {
		case r == nil:
			failed++
			fmt.Fprintf(w, "DID NOT RUN  %s\n", t.name)
		case r.State.Is(types.SpecStatePassed):
			passed++
			if r.NumAttempts > 1 {
				fmt.Fprintf(w, "AT TRY %-5d %s\n", r.NumAttempts, t.name)
			}
		default:
			failed++
			fmt.Fprintf(w, "%-12s %s (%s)\n             %s\n", strings.ToUpper(r.State.String()), t.name, seconds(r.RunTime), firstLine(r.FailureMessage()))
		}
	}
	for _, r := range s.specs {
		if !r.LeafNodeType.Is(types.NodeTypeIt) {
			fmt.Fprintf(w, "FAILED       %s: %s\n", r.LeafNodeType, firstLine(r.FailureMessage()))
		}
	}
	fmt.Fprintf(w, "slowest:\n")
	slow := slices.SortedFunc(slices.Values(s.specs), func(a, b types.SpecReport) int { return cmp.Compare(b.RunTime, a.RunTime) })
	for _, r := range slow[:min(3, len(slow))] {
		fmt.Fprintf(w, "  %8s  %s\n", seconds(r.RunTime), r.FullText())
	}
	fmt.Fprintf(w, "%d tests: %d passed, %d failed, in %s\n", len(s.wanted), passed, failed, seconds(s.took))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

// verdict is an error unless all that was wanted passed and nothing else failed.
func (s *summary) verdict() error {
	bad := 0
	for _, t := range s.wanted {
		if r := s.outcome(t.name); r == nil || !r.State.Is(types.SpecStatePassed) {
			bad++
		}
	}
	for _, r := range s.specs {
		if r.Failed() && !r.LeafNodeType.Is(types.NodeTypeIt) {
			bad++
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d tests did not pass", bad, len(s.wanted))
	}
	return nil
}

// write makes a JUnit report of the tests that ran.
func (s *summary) write(path string) error {
	report := types.Report{
		SuiteDescription: "Kubernetes end to end without a node", SuiteSucceeded: s.verdict() == nil,
		StartTime: s.started, EndTime: s.started.Add(s.took), RunTime: s.took, SpecReports: s.specs,
	}
	return reporters.GenerateJUnitReportWithConfig(report, path, reporters.JunitReportConfig{
		OmitTimelinesForSpecState: types.SpecStatePassed, OmitLeafNodeType: true, OmitSpecLabels: true})
}
