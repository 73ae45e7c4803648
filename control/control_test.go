package control

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The locks are between processes, so the other side is this test, run again.
func TestMain(m *testing.M) {
	if dir := os.Getenv("CONTROL_TEST_LOCK"); dir != "" {
		if _, err := Lock(dir); err != nil {
			os.Stdout.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv("CONTROL_TEST_MOUNT") != "" {
		if err := mountElsewhere(); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func other(t *testing.T, dir string) (string, error) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "CONTROL_TEST_LOCK="+dir)
	out, err := cmd.Output()
	return string(out), err
}

func TestLockHoldsOffAnotherProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	release, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	said, err := other(t, dir)
	if err == nil || !strings.Contains(said, "in use by a running proa (pid ") || !strings.Contains(said, "proa down") {
		t.Errorf("another process got in, or was not told why: %q %v", said, err)
	}
	var inUse *InUseError
	if _, err := Lock(dir); !errors.As(err, &inUse) {
		t.Errorf("the same process, twice: %v", err)
	}
	release()
	if said, err := other(t, dir); err != nil {
		t.Errorf("after release: %s %v", said, err)
	}
}

func TestFindByDirectory(t *testing.T) {
	a := Instance{DataDir: t.TempDir(), RunDir: t.TempDir(), PID: os.Getpid()}
	leave, err := a.Enter()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Find(a.DataDir, ""); err != nil || got.RunDir != a.RunDir {
		t.Errorf("by data directory: %+v %v", got, err)
	}
	if got, err := Find("", a.RunDir); err != nil || got.DataDir != a.DataDir {
		t.Errorf("by run directory: %+v %v", got, err)
	}
	if _, err := Find(a.DataDir, "/elsewhere"); !errors.Is(err, ErrNone) {
		t.Errorf("another run directory: %v", err)
	}
	leave()
	if _, err := Find(a.DataDir, ""); !errors.Is(err, ErrNone) {
		t.Errorf("after it left: %v", err)
	}
}

// mountElsewhere mounts something on the register, in a mount namespace of its
// own, and looks whether it is still there when its input ends.
func mountElsewhere() error {
	dir := register()
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), os.MkdirAll(dir, 0o755), unix.Mount("none", dir, "tmpfs", 0, "")); err != nil {
		return err
	}
	inside := filepath.Join(dir, "inside")
	if err := os.WriteFile(inside, nil, 0o600); err != nil {
		return err
	}
	os.Stdout.WriteString("mounted\n")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	_, err := os.Stat(inside)
	return err
}

// Another mount namespace, a container's or a test's, may have a register of its
// own at the same place.
func TestLeavingKeepsMountsOfOtherNamespaces(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "CONTROL_TEST_MOUNT=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "mounted\n" {
		t.Fatalf("the other namespace: %q %v", line, err)
	}
	leave, err := Instance{DataDir: t.TempDir(), RunDir: t.TempDir(), PID: os.Getpid()}.Enter()
	if err != nil {
		t.Fatal(err)
	}
	leave()
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error("what the other namespace had mounted is gone: ", err)
	}
}

// Instances start, end and are looked for all at once, and a look never takes a
// living one out.
func TestEntriesOutliveLooks(t *testing.T) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			i := Instance{DataDir: t.TempDir(), PID: os.Getpid()}
			for range 50 {
				leave, err := i.Enter()
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := Find(i.DataDir, ""); err != nil {
					t.Error("a running instance is not found: ", err)
				}
				leave()
			}
		})
	}
	wg.Wait()
}

func TestRegisterOfUsers(t *testing.T) {
	for _, c := range []struct {
		uid           int
		runtime, want string
	}{
		{0, "/run/user/0", "/run/proa-instances"}, {1000, "/run/user/1000", "/run/user/1000/proa-instances"}, {1000, "", "/tmp/proa-instances-1000"},
	} {
		if got := registerOf(c.uid, c.runtime, "/tmp"); got != c.want {
			t.Errorf("user %d with %q: %s", c.uid, c.runtime, got)
		}
	}
	dir := t.TempDir()
	if err := ours(dir); err != nil {
		t.Error(err)
	}
	if err := os.Chown(dir, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	if err := ours(dir); err == nil {
		t.Error("somebody else's register is believed")
	}
}

func TestNamesOfInstances(t *testing.T) {
	if got := CgroupRoot(DefaultDataDir + "/"); got != "proa" {
		t.Errorf("default: %q", got)
	}
	if a, b := CgroupRoot("/a"), CgroupRoot("/b"); a == b || !strings.HasPrefix(a, "proa-") {
		t.Errorf("%q and %q", a, b)
	}
}
