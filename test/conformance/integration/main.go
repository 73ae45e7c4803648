// Command integration builds Kubernetes' own integration tests of its controllers
// and runs them against proa: a copy of the published module whose test servers are
// proa processes, and whose controllers do nothing, so that what the tests see is
// done by proa. From test/conformance:
//
//	go run ./integration -proa ../../bin/proa job cronjob daemonset deployment
//
// accepted.txt lists the tests that cannot pass so, each with its reason.
package main

import (
	"bufio"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	//go:embed starter.go.txt
	starter string
	//go:embed accepted.txt
	accepted string
)

type run struct {
	dir, proa, pattern string
	reasons            map[string]string // by test
}

func main() {
	var r run
	flag.StringVar(&r.dir, "dir", filepath.Join(os.TempDir(), "proa-integration"), "where the copy and the tests are built, and kept")
	flag.StringVar(&r.proa, "proa", "../../bin/proa", "the binary to test")
	flag.StringVar(&r.pattern, "run", "", "which tests of each package to run; all by default")
	flag.Parse()
	r.reasons = reasons()
	failed, err := r.all(flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if failed {
		os.Exit(1)
	}
}

// reasons are the tests that need not pass, and why.
func reasons() map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(accepted) {
		if name, why, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			out[name] = why
		}
	}
	return out
}

func (r *run) all(packages []string) (failed bool, err error) {
	if r.proa, err = filepath.Abs(r.proa); err != nil {
		return false, err
	}
	if err := r.prepare(); err != nil {
		return false, err
	}
	for _, p := range packages {
		bad, err := r.one(p)
		if err != nil {
			return true, fmt.Errorf("%s: %w", p, err)
		}
		failed = failed || bad
	}
	return failed, nil
}

// prepare makes the copy, unless it is there.
func (r *run) prepare() error {
	if _, err := os.Stat(filepath.Join(r.dir, "go.mod")); err == nil {
		return nil
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		return fmt.Errorf("finding k8s.io/kubernetes: %w", err)
	}
	from, to := strings.TrimSpace(string(out)), filepath.Join(r.dir, "kubernetes")
	for _, part := range []string{"pkg", "cmd", "plugin", "test", "third_party"} {
		if err := os.CopyFS(filepath.Join(to, part), os.DirFS(filepath.Join(from, part))); err != nil {
			return err
		}
	}
	if err := exec.Command("chmod", "-R", "u+w", to).Run(); err != nil {
		return err
	}
	if err := copyFiles(map[string]string{filepath.Join(from, "go.mod"): filepath.Join(to, "go.mod"), filepath.Join(from, "go.sum"): filepath.Join(to, "go.sum")}); err != nil {
		return err
	}
	if err := patch(to); err != nil {
		return err
	}
	return r.module()
}

func copyFiles(files map[string]string) error {
	for from, to := range files {
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(to, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// module is the one that the tests are built from: this one, with the copy.
func (r *run) module() error {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		return err
	}
	var sums []byte
	for _, name := range []string{"go.sum", "go.work.sum"} {
		more, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		sums = append(sums, more...)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "go.sum"), sums, 0o644); err != nil {
		return err
	}
	text := regexp.MustCompile(`(?m)^module .*$`).ReplaceAllString(string(mod), "module integration")
	return os.WriteFile(filepath.Join(r.dir, "go.mod"), []byte(text+"\nreplace k8s.io/kubernetes => ./kubernetes\n"), 0o644)
}

// one builds and runs one package, and says which tests failed without a reason.
func (r *run) one(name string) (failed bool, err error) {
	binary := filepath.Join(r.dir, name+".test")
	if _, err := os.Stat(binary); err != nil {
		build := exec.Command("go", "test", "-c", "-vet=off", "-o", binary, "k8s.io/kubernetes/test/integration/"+name)
		build.Dir, build.Stderr = r.dir, os.Stderr
		build.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "CGO_ENABLED=0")
		if err := build.Run(); err != nil {
			return true, err
		}
	}
	test := exec.Command(binary, "-test.v", "-test.timeout", "2h", "-test.run", r.pattern)
	test.Dir, test.Env = r.dir, append(os.Environ(), "PROA="+r.proa)
	out, err := test.StdoutPipe()
	if err != nil {
		return true, err
	}
	if err := test.Start(); err != nil {
		return true, err
	}
	log, err := os.Create(filepath.Join(r.dir, name+".log"))
	if err != nil {
		return true, err
	}
	defer log.Close()
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fmt.Fprintln(log, lines.Text())
		failed = r.judge(name, lines.Text()) || failed
	}
	_ = test.Wait() // its exit says no more than its lines
	return failed, lines.Err()
}

var verdict = regexp.MustCompile(`^(\s*)--- (PASS|FAIL|SKIP): (\S+)`)

// judge prints a test's verdict and tells whether it is a failure that is not
// accepted.
func (r *run) judge(name, line string) bool {
	m := verdict.FindStringSubmatch(line)
	if m == nil || m[1] != "" {
		return false
	}
	why := r.reasons[name+"/"+m[3]]
	switch {
	case m[2] == "FAIL" && why != "":
		fmt.Printf("accepted %s/%s: %s\n", name, m[3], why)
	case m[2] == "FAIL":
		fmt.Printf("FAILED   %s/%s\n", name, m[3])
		return true
	default:
		fmt.Printf("%-8s %s/%s\n", strings.ToLower(m[2]), name, m[3])
	}
	return false
}
