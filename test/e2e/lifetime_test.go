package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLifetime: the daemon may die at any moment; containers run on, nothing
// acknowledged is lost, and a reboot brings the workload back.
func TestLifetime(t *testing.T) {
	m := newMachine(t)
	m.start()
	m.importImages()
	m.apply(box("steady", "i=0; while :; do echo tick $i; i=$((i+1)); sleep 1; done"))
	m.apply(box("flaky", "echo once; sleep 2; exit 1"))
	m.k("wait", "--for=condition=Ready", "pod/steady", "--timeout=30s")
	m.until("flaky to have restarted", 60*time.Second, func() (string, bool) {
		n := m.get("{.status.containerStatuses[0].restartCount}", "pod/flaky")
		return n, n != "0"
	})
	id := func() string { return m.get("{.status.containerStatuses[0].containerID}", "pod/steady") }
	before, restarts := id(), m.restarts("flaky")

	for _, s := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		m.signal(s)
		pid := m.processOf("tick")
		time.Sleep(2 * time.Second)
		m.start()
		m.k("wait", "--for=condition=Ready", "pod/steady", "--timeout=30s")
		if now := m.processOf("tick"); now != pid || id() != before {
			t.Errorf("after %v the container is %s (pid %d), was %s (pid %d)", s, id(), now, before, pid)
		}
		if n := m.restarts("steady"); n != 0 {
			t.Errorf("after %v it counts %d restarts", s, n)
		}
		if n := m.restarts("flaky"); n < restarts {
			t.Errorf("after %v flaky counts %d restarts, counted %d", s, n, restarts)
		}
		if gap := missingTicks(m.k("logs", "steady")); gap != "" {
			t.Errorf("after %v the log misses %s", s, gap)
		}
	}
	t.Run("nothing acknowledged is lost", func(t *testing.T) { m := m.in(t); m.killedWhileWriting() })
	t.Run("a reboot", func(t *testing.T) { m := m.in(t); m.reboots(before) })
}

// TestStartIsInterrupted ends proa at moments of its start: at once and in good
// order when asked, and never so that it could not start again.
func TestStartIsInterrupted(t *testing.T) {
	m := newMachine(t)
	for i := range 16 {
		asked := i%2 == 0
		cmd := exec.Command(binary, "up", "--data-dir", m.data, "--run-dir", m.run, "--node-name", "one")
		var log bytes.Buffer
		cmd.Env, cmd.Stdout, cmd.Stderr = m.env(), &log, &log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(15+20*i) * time.Millisecond)
		s := syscall.SIGKILL
		if asked {
			s = syscall.SIGTERM
		}
		_ = cmd.Process.Signal(s)
		late := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		if !late.Stop() {
			t.Fatalf("it did not end when asked after %d ms\n%s", 15+20*i, &log)
		}
		if asked && err != nil && !byDefault(err) {
			t.Errorf("asked after %d ms it ends with %v\n%s", 15+20*i, err, &log)
		}
	}
	m.start()
	m.importImages()
	m.apply(box("after", "sleep 1000"))
	m.k("wait", "--for=condition=Ready", "pod/after", "--timeout=30s")
}

// byDefault tells that the process was ended by the signal before it had taken
// the signal into its own hands.
func byDefault(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled()
}

func (m *machine) restarts(pod string) int {
	m.t.Helper()
	n, err := strconv.Atoi(m.get("{.status.containerStatuses[0].restartCount}", "pod/"+pod))
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

// processOf finds the shell whose command line contains the word.
func (m *machine) processOf(word string) int {
	m.t.Helper()
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		data, _ := os.ReadFile(p)
		if line := string(data); strings.HasPrefix(line, "sh\x00-c\x00") && strings.Contains(line, word) {
			pid, _ := strconv.Atoi(strings.Split(p, "/")[2])
			return pid
		}
	}
	m.t.Fatalf("no process with %q", word)
	return 0
}

// missingTicks finds a hole in "tick 0, tick 1, ...".
func missingTicks(log string) string {
	next := 0
	for line := range strings.Lines(log) {
		if line != fmt.Sprintf("tick %d\n", next) {
			return fmt.Sprintf("tick %d: %q", next, line)
		}
		next++
	}
	if next < 3 {
		return fmt.Sprintf("nearly all: %d lines", next)
	}
	return ""
}

// killedWhileWriting kills the daemon in the middle of a stream of writes.
func (m *machine) killedWhileWriting() {
	m.t.Helper()
	acknowledged := make(chan string)
	go func() {
		defer close(acknowledged)
		for i := 0; ; i++ {
			name := fmt.Sprintf("written-%d", i)
			if m.kube("create", "configmap", name, "--from-literal=n="+strconv.Itoa(i)).Run() != nil {
				return
			}
			acknowledged <- name
		}
	}()
	var names []string
	for name := range acknowledged {
		if names = append(names, name); len(names) == 10 {
			_ = m.up.Process.Kill() // while the next one is written
		}
	}
	m.ended("being killed")
	m.start()
	if len(names) < 10 {
		m.t.Fatalf("only %d writes", len(names))
	}
	have := " " + m.get("{.items[*].metadata.name}", "configmaps") + " "
	for _, name := range names {
		if !strings.Contains(have, " "+name+" ") {
			m.t.Errorf("%s was acknowledged and is gone", name)
		}
	}
}

// reboots simulates one: every process dies, what is mounted goes, the run
// directory is empty.
func (m *machine) reboots(before string) {
	m.t.Helper()
	count := m.restarts("steady")
	m.signal(syscall.SIGKILL)
	for _, pid := range m.processes() {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	m.until("all to be dead", 10*time.Second, func() (string, bool) {
		left := m.processes()
		return fmt.Sprint(left), len(left) == 0
	})
	for _, mount := range m.mounts() {
		_ = unix.Unmount(mount, unix.MNT_DETACH)
	}
	if err := os.RemoveAll(m.run); err != nil {
		m.t.Fatal(err)
	}
	m.start()
	m.until("steady to run again", 30*time.Second, func() (string, bool) {
		got := m.get("{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].ready}", "pod/steady")
		return got, strings.HasSuffix(got, " true") && !strings.HasPrefix(got, before)
	})
	if n := m.restarts("steady"); n != count+1 {
		m.t.Errorf("after the reboot it counts %d restarts, want %d", n, count+1)
	}
}
