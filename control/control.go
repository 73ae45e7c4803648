// Package control is how the commands of one machine reach a running instance:
// a unix socket in its run directory, which only root can open, and a register
// of the instances there are, so that a command finds its cluster by flags or,
// when there is one, by itself.
package control

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Defaults of the two flags that name an instance.
const (
	DefaultDataDir = "/var/lib/proa"
	DefaultRunDir  = "/run/proa"
)

// register is where running instances are listed, whatever their run directory:
// root's for all, anybody else's in a directory of their own.
func register() string { return registerOf(os.Geteuid(), os.Getenv("XDG_RUNTIME_DIR"), os.TempDir()) }

func registerOf(uid int, runtimeDir, temp string) string {
	switch {
	case uid == 0:
		return "/run/proa-instances"
	case runtimeDir != "":
		return filepath.Join(runtimeDir, "proa-instances")
	}
	return filepath.Join(temp, fmt.Sprintf("proa-instances-%d", uid))
}

// ours refuses a register that somebody else has made: who lists instances in
// it says where commands send credentials.
func ours(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || !ok || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s is not a directory of this user", dir)
	}
	return nil
}

// Instance is a running proa.
type Instance struct {
	DataDir    string    `json:"dataDir"`
	RunDir     string    `json:"runDir"`
	Kubeconfig string    `json:"kubeconfig"`
	Server     string    `json:"server"`
	Node       string    `json:"node,omitempty"`
	PID        int       `json:"pid"`
	Started    time.Time `json:"started"`
}

// ID tells instances on one machine apart: "" for the default data directory.
func ID(dataDir string) string {
	if filepath.Clean(dataDir) == DefaultDataDir {
		return ""
	}
	sum := sha256.Sum256([]byte(filepath.Clean(dataDir)))
	return hex.EncodeToString(sum[:4])
}

// CgroupRoot is the cgroup that an instance keeps its pods below.
func CgroupRoot(dataDir string) string {
	if id := ID(dataDir); id != "" {
		return "proa-" + id
	}
	return "proa"
}

// Socket is where an instance listens.
func Socket(runDir string) string { return filepath.Join(runDir, "proa.sock") }

// InUseError says that a directory belongs to a running instance.
type InUseError struct {
	Dir string
	PID string
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("%s is in use by a running proa%s: stop it with `proa down`, or choose another directory with --data-dir and --run-dir", e.Dir, e.PID)
}

// Lock makes the caller the only user of a directory until it is released or
// the process ends. The directory is made if need be.
func Lock(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := lockFile(filepath.Join(dir, "lock"))
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, &InUseError{Dir: dir, PID: holder(filepath.Join(dir, "lock"))}
	}
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	// Written over first: on a full disk there is room where there was some. The
	// lock is what counts; the number is for messages.
	pid := fmt.Append(nil, os.Getpid())
	_, err = f.WriteAt(pid, 0)
	err = cmp.Or(err, f.Truncate(int64(len(pid))))
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		f.Close()
		return nil, err
	}
	return f, nil
}

func holder(file string) string {
	data, err := os.ReadFile(file)
	if err != nil || len(data) == 0 {
		return ""
	}
	return fmt.Sprintf(" (pid %s)", strings.TrimSpace(string(data)))
}

// Enter lists the instance in the register until leave is called or the
// process ends: the entry is a file that is locked while its owner lives. The
// register itself stays: others may be about to list themselves in it, and where
// another mount namespace has mounted something on it, removing it would take
// that mount away (rmdir does, since Linux 3.18).
func (i Instance) Enter() (leave func(), err error) {
	dir := register()
	data, err := json.Marshal(i)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "i"+ID(i.DataDir)+".json")
	f, err := entry(dir, path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(append(data, '\n'), 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() {
		os.Remove(path)
		f.Close()
	}, nil
}

// entry makes a locked file in the register. The caller holds its data
// directory, so that only readers can be in the way: one that finds the file
// before it is locked takes it for a dead instance's and removes it.
func entry(dir, path string) (*os.File, error) {
	for {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		if err := ours(dir); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			continue // the register went: somebody reset the last cluster
		}
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			f.Close()
			return nil, err
		}
		if listed(f, path) {
			return f, nil
		}
		f.Close()
	}
}

// listed tells whether an open file is the one at path.
func listed(f *os.File, path string) bool {
	opened, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(opened, there)
}

// Forget removes the register, unless instances are listed in it.
func Forget() error {
	err := os.Remove(register())
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EBUSY) {
		return nil
	}
	return err
}

// List returns the running instances; entries of dead ones are taken out.
func List() ([]Instance, error) {
	dir := register()
	if err := ours(dir); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []Instance
	for _, e := range entries {
		if i, alive := read(filepath.Join(dir, e.Name())); alive {
			out = append(out, i)
		}
	}
	return out, nil
}

func read(path string) (i Instance, alive bool) {
	f, err := os.Open(path)
	if err != nil {
		return i, false
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil { // nobody holds it: its owner is dead
		sweep(f, path)
		return i, false
	}
	return i, json.NewDecoder(f).Decode(&i) == nil
}

// sweep removes a dead instance's entry, which the caller has locked as a reader.
// One at a time: of two who look at once, the second would remove what a new
// instance has made by then.
func sweep(f *os.File, path string) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return // gone, and the entry with it
	}
	defer dir.Close()
	if unix.Flock(int(dir.Fd()), unix.LOCK_EX) == nil && listed(f, path) {
		os.Remove(path)
	}
}

// ErrNone says that no instance runs that matches.
var ErrNone = errors.New("no cluster is running here: start one with `proa up`")

// Find returns the running instance with these directories; empty ones match
// any, as long as there is only one.
func Find(dataDir, runDir string) (Instance, error) {
	all, err := List()
	if err != nil {
		return Instance{}, err
	}
	var found []Instance
	for _, i := range all {
		if (dataDir == "" || filepath.Clean(dataDir) == i.DataDir) && (runDir == "" || filepath.Clean(runDir) == i.RunDir) {
			found = append(found, i)
		}
	}
	switch len(found) {
	case 0:
		return Instance{}, ErrNone
	case 1:
		return found[0], nil
	}
	var dirs []string
	for _, i := range found {
		dirs = append(dirs, i.DataDir)
	}
	return Instance{}, fmt.Errorf("%d clusters run here: choose one with --data-dir: %s", len(found), strings.Join(dirs, ", "))
}

// Client talks to the instance's socket.
func (i Instance) Client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", Socket(i.RunDir))
		},
	}}
}

// Gone waits until the instance has ended.
func (i Instance) Gone(ctx context.Context) error {
	fd, err := unix.PidfdOpen(i.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		left := -1
		if d, ok := ctx.Deadline(); ok {
			left = max(0, int(time.Until(d).Milliseconds()))
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, left)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n > 0:
			return nil
		default:
			return fmt.Errorf("proa (pid %d) still runs after the time that stopping may take", i.PID)
		}
	}
}

// Listen opens the instance's socket, for root only.
func Listen(runDir string) (net.Listener, error) {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, err
	}
	path := Socket(runDir)
	os.Remove(path) // a dead instance's: the caller holds the lock
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o600)
}
