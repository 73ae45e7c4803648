// Package disktest gives a test's process a disk of its own: a small ext4 on a
// loop device, which can lose its power.
//
// It promises that after Cut the disk holds what was synced and nothing that was
// not, as the machine's would, and that nothing of it stays behind: the mount
// belongs to the mount namespace of the process, and both end with it.
package disktest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Disk is mounted by the processes that Use prepared, one after the other.
type Disk struct {
	// Dir is where those processes find it. To others it is empty.
	Dir   string
	image string
}

// New makes a disk of some bytes. It skips the test, and says why, where this
// machine lets nobody mount one.
func New(t testing.TB, bytes int64) *Disk {
	t.Helper()
	if why := Missing(); why != "" {
		t.Skip(why)
	}
	base := t.TempDir()
	d := &Disk{Dir: filepath.Join(base, "disk"), image: filepath.Join(base, "image")}
	err := os.Mkdir(d.Dir, 0o755)
	if err == nil {
		err = os.WriteFile(d.image, nil, 0o600)
	}
	if err == nil {
		err = os.Truncate(d.image, bytes)
	}
	if err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command("mkfs.ext4", "-q", "-F", d.image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, text)
	}
	t.Cleanup(func() { d.released(t) })
	return d
}

// Missing tells why no disk can be made here; "" if one can.
func Missing() string {
	if os.Geteuid() != 0 {
		return "only root may mount"
	}
	for _, tool := range []string{"mkfs.ext4", "unshare", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			return tool + " is not installed"
		}
	}
	if f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0); err != nil {
		return "no loop devices: " + err.Error()
	} else {
		f.Close()
	}
	return probe()
}

// probe mounts a file to see whether that is allowed.
func probe() string {
	dir, err := os.MkdirTemp("", "disktest")
	if err != nil {
		return err.Error()
	}
	defer os.RemoveAll(dir)
	script := `truncate -s 1M i && mkfs.ext4 -q -F i && mkdir d && mount -o loop i d`
	cmd := exec.Command("unshare", "--mount", "sh", "-c", script)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Sprintf("a file cannot be mounted here: %v: %s", err, text)
	}
	return ""
}

// Use has a command, which was not started yet, run with the disk mounted. The
// one before must have ended.
func (d *Disk) Use(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Fatal(err)
	}
	d.released(t)
	// Each step replaces the one before: the process stays the one that was started.
	args := []string{"unshare", "--mount", "sh", "-c", `mount -o loop "$0" "$1" && shift && exec "$@"`, d.image, d.Dir, cmd.Path}
	cmd.Path, cmd.Args = unshare, append(args, cmd.Args[1:]...)
}

// Seen is where a running process that was prepared by Use has the disk, as the
// rest of the machine finds it.
func (d *Disk) Seen(p *os.Process) string { return fmt.Sprintf("/proc/%d/root%s", p.Pid, d.Dir) }

// released waits until the kernel has let go of the image.
func (d *Disk) released(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); d.attached(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s is in use still", d.image)
		}
	}
}

func (d *Disk) attached() bool {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // the pattern is right
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(text)) == d.image {
			return true
		}
	}
	return false
}

const (
	shutdown   = 0x8004587d // FS_IOC_SHUTDOWN, <linux/fs.h>
	withoutLog = 2          // nothing more reaches the disk, the journal neither
)

// Cut takes the power from the disk of a running process, and the process with
// it: it is stopped first, since on a real machine nobody is told anything after
// that moment, and is the caller's to kill.
func (d *Disk) Cut(t testing.TB, p *os.Process) {
	t.Helper()
	f, err := os.Open(d.Seen(p))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := p.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); !stopped(p.Pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not stop", p.Pid)
		}
	}
	how := uint32(withoutLog)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), shutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		t.Fatalf("the disk goes on without power: %v", errno)
	}
}

// stopped tells that no thread runs outside of the kernel any more. One that
// waits there for the disk (D) stops before it returns.
func stopped(pid int) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid)) // the pattern is right
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(text), ") ") // PID (NAME) STATE
		if !strings.HasPrefix(rest, "T") && !strings.HasPrefix(rest, "D") {
			return false
		}
	}
	return true
}
