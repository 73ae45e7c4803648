package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machine is one instance of proa and the user's shell on it, as a test uses it.
type machine struct {
	*instance
	t *testing.T
}

// instance is what a test's subtests share.
type instance struct {
	data, run, home string
	up              *exec.Cmd // nil while no daemon runs
	log             *bytes.Buffer
	ready           map[string]any
	exited          chan struct{} // closed when the daemon has ended
	kubectl         string        // a separate binary; "" for the embedded one
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "proa-e2e-") // short: sockets are made below
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{&instance{data: filepath.Join(dir, "data"), run: filepath.Join(dir, "run"), home: filepath.Join(dir, "home")}, t}
	t.Cleanup(func() {
		m.reset()
		_ = os.RemoveAll(dir)
	})
	return m
}

func (m *machine) env() []string {
	return append(os.Environ(), "HOME="+m.home, "KUBECONFIG=", "SUDO_USER=")
}

// start runs `proa up` and waits for its ready line.
func (m *machine) start(extra ...string) {
	m.t.Helper()
	args := append([]string{"up", "-o", "json", "--data-dir", m.data, "--run-dir", m.run, "--node-name", "one"}, extra...)
	m.up, m.log, m.exited = exec.Command(binary, args...), &bytes.Buffer{}, make(chan struct{})
	m.up.Env, m.up.Stderr = m.env(), m.log
	m.up.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := m.up.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.up.Start(); err != nil {
		m.up = nil
		m.t.Fatal(err)
	}
	line, cmd, exited := make(chan error, 1), m.up, m.exited
	m.ready = map[string]any{}
	go func() {
		line <- json.NewDecoder(out).Decode(&m.ready)
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
		close(exited)
	}()
	select {
	case err := <-line:
		if err != nil {
			m.t.Fatalf("proa up did not get ready: %v\n%s", err, m.log)
		}
	case <-time.After(60 * time.Second):
		_ = m.up.Process.Kill()
		m.t.Fatalf("proa up was not ready after 60 s\n%s", m.log)
	}
}

// signal ends the daemon and waits until it is gone.
func (m *machine) signal(s syscall.Signal) {
	m.t.Helper()
	if err := m.up.Process.Signal(s); err != nil {
		m.t.Fatal(err)
	}
	m.ended(s.String())
}

// ended waits until the daemon is gone. One that stays is killed, and all that
// runs then is named.
func (m *machine) ended(why string) {
	m.t.Helper()
	up := m.up
	m.up = nil
	if m.exits(60 * time.Second) {
		return
	}
	running, log := commands(m.processes()), "its output is open still"
	for _, s := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGKILL} { // the first has it tell what it does
		_ = up.Process.Signal(s)
		if m.exits(10 * time.Second) {
			log = m.log.String()
			break
		}
	}
	m.t.Fatalf("proa did not end within 60 s of %s; there run%s\n%s", why, running, log)
}

func (m *machine) exits(within time.Duration) bool {
	select {
	case <-m.exited:
		return true
	case <-time.After(within):
		return false
	}
}

// commands are the command lines of processes.
func commands(pids []int) string {
	var b strings.Builder
	for _, pid := range pids {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // gone: empty
		fmt.Fprintf(&b, " [%d: %s]", pid, strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " ")))
	}
	return cmp.Or(b.String(), " no processes of its")
}

// reset leaves nothing behind, whatever state the test ended in.
func (m *machine) reset() {
	if m.t.Failed() && m.log != nil {
		m.t.Logf("log of proa:\n%s", m.log)
	}
	if out, err := m.command("reset", "--yes", "--data-dir", m.data, "--run-dir", m.run).CombinedOutput(); err != nil {
		m.t.Errorf("proa reset: %v\n%s", err, out)
	}
	if m.up != nil {
		m.ended("its reset")
	}
}

func (m *machine) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = m.env()
	return cmd
}

// proa runs a command that must succeed and returns what it prints.
func (m *machine) proa(args ...string) string {
	m.t.Helper()
	return m.output(m.command(args...))
}

func (m *machine) output(cmd *exec.Cmd) string {
	m.t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		m.t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args[1:], " "), err, out.String(), errs.String())
	}
	return out.String()
}

func (m *machine) kube(args ...string) *exec.Cmd {
	var cmd *exec.Cmd
	if m.kubectl != "" {
		cmd = exec.Command(m.kubectl, args...)
	} else {
		cmd = exec.Command(binary, append([]string{"kubectl"}, args...)...)
	}
	cmd.Env = append(m.env(), "KUBECONFIG="+filepath.Join(m.data, "kubeconfig"))
	return cmd
}

// k runs kubectl, which must succeed, and returns what it prints.
func (m *machine) k(args ...string) string {
	m.t.Helper()
	return m.output(m.kube(args...))
}

// fails runs kubectl, which must not succeed, and returns what it says.
func (m *machine) fails(args ...string) string {
	m.t.Helper()
	out, err := m.kube(args...).CombinedOutput()
	if err == nil {
		m.t.Fatalf("kubectl %s succeeded:\n%s", strings.Join(args, " "), out)
	}
	return string(out)
}

func (m *machine) apply(manifest string, args ...string) string {
	m.t.Helper()
	cmd := m.kube(append([]string{"apply", "-f", "-"}, args...)...)
	cmd.Stdin = strings.NewReader(manifest)
	return m.output(cmd)
}

// refuses applies a manifest that must be refused and returns the answer.
func (m *machine) refuses(manifest string, args ...string) string {
	m.t.Helper()
	cmd := m.kube(append([]string{"apply", "-f", "-"}, args...)...)
	cmd.Stdin = strings.NewReader(manifest)
	out, err := cmd.CombinedOutput()
	if err == nil {
		m.t.Errorf("accepted:\n%s\n%s", manifest, out)
	}
	return string(out)
}

// get reads a field by JSONPath.
func (m *machine) get(path string, args ...string) string {
	m.t.Helper()
	return m.k(append(append([]string{"get"}, args...), "-o", "jsonpath="+path)...)
}

// until waits for a condition and fails with what it saw last.
func (m *machine) until(what string, within time.Duration, cond func() (string, bool)) {
	m.t.Helper()
	var saw string
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		var done bool
		if saw, done = cond(); done {
			return
		}
	}
	m.t.Fatalf("waited %s for %s; last: %s", within, what, saw)
}

// wants waits until a field has a value.
func (m *machine) wants(value string, within time.Duration, path string, args ...string) {
	m.t.Helper()
	m.until(fmt.Sprintf("%s of %s to be %q", path, strings.Join(args, " "), value), within, func() (string, bool) {
		got := m.get(path, args...)
		return got, got == value
	})
}

// sees waits until a command's output contains a text.
func (m *machine) sees(text string, within time.Duration, args ...string) {
	m.t.Helper()
	m.until(fmt.Sprintf("kubectl %s to show %q", strings.Join(args, " "), text), within, func() (string, bool) {
		got := m.k(args...)
		return got, strings.Contains(got, text)
	})
}

// fetch does one GET without keeping the connection.
func fetch(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}
