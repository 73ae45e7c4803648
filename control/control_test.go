package control

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
