// Package etcdtest runs real etcd servers for tests: the program of the module
// test/etcd, built when it is first needed, each with a directory and ports of
// its own, to be stopped, killed, frozen and started again.
package etcdtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"proa/internal/disktest"
)

// Server is one etcd member that is a cluster by itself.
type Server struct {
	// URL is where clients reach it.
	URL  string
	Dir  string
	args []string
	peer string
	disk *disktest.Disk // nil for the machine's

	mu  sync.Mutex
	cmd *exec.Cmd
	log *os.File
}

// Start runs a server until the test ends. It does not sync its log unless args
// say so (--unsafe-no-fsync=false). args are further flags of etcd.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	return start(t, "http", nil, args...)
}

// StartOn is Start with the data on a disk of its own, and synced: see Cut.
func StartOn(t testing.TB, d *disktest.Disk, args ...string) *Server {
	t.Helper()
	return start(t, "http", d, append([]string{"--unsafe-no-fsync=false"}, args...)...)
}

// StartTLS is Start with https:// client URLs.
func StartTLS(t testing.TB, args ...string) *Server {
	t.Helper()
	return start(t, "https", nil, args...)
}

func start(t testing.TB, scheme string, d *disktest.Disk, args ...string) *Server {
	t.Helper()
	s := &Server{URL: scheme + "://" + address(t), peer: "http://" + address(t), Dir: t.TempDir(), args: args, disk: d}
	s.Run(t)
	t.Cleanup(func() { s.Kill(t) })
	return s
}

func address(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Run starts the server again after Kill, on the same data, and waits until it
// listens.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if s.log, err = os.CreateTemp(s.Dir, "log"); err != nil {
		t.Fatal(err)
	}
	dir := s.Dir
	if s.disk != nil {
		dir = s.disk.Dir
	}
	s.cmd = exec.Command(Binary(t), append([]string{"--data-dir", filepath.Join(dir, "data"), "--name", "test",
		"--listen-client-urls", s.URL, "--advertise-client-urls", s.URL,
		"--listen-peer-urls", s.peer, "--initial-advertise-peer-urls", s.peer, "--initial-cluster", "test=" + s.peer,
		"--unsafe-no-fsync", "--log-level", "warn"}, s.args...)...)
	if s.disk != nil {
		s.disk.Use(t, s.cmd)
	}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.await(t)
}

func (s *Server) await(t testing.TB) {
	t.Helper()
	address := s.URL[len("http://"):]
	if s.URL[4] == 's' {
		address = s.URL[len("https://"):]
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(s.log.Name())
			t.Fatalf("etcd does not listen:\n%s", text)
		}
	}
}

// Kill ends the server as a crash of its process would.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // "signal: killed"
	s.log.Close()
	s.cmd = nil
}

// Cut ends the server as a power cut would: what it had not synced is lost.
func (s *Server) Cut(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	s.disk.Cut(t, s.cmd.Process)
	s.mu.Unlock()
	s.Kill(t)
}

// Freeze stops the server where it is until Thaw; connections stay open.
func (s *Server) Freeze(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGSTOP)
	// Its threads stop one by one: until the last has, it may answer.
	if err := unix.Waitid(unix.P_PID, s.cmd.Process.Pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
}

// Thaw lets it go on.
func (s *Server) Thaw(t testing.TB) { s.signal(t, syscall.SIGCONT) }

func (s *Server) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// Client is etcd's own, without TLS.
func (s *Server) Client(t testing.TB) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{s.URL}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// CompactNow forgets all that is not current.
func (s *Server) CompactNow(t testing.TB) {
	t.Helper()
	c := s.Client(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	now, err := c.Get(ctx, "nothing")
	if err == nil {
		_, err = c.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
	}
	if err != nil {
		t.Fatal(err)
	}
}

var build struct {
	once sync.Once
	path string
	err  error
}

// Binary builds etcd if need be; the tests of several packages may ask for it
// at once.
func Binary(t testing.TB) string {
	t.Helper()
	build.once.Do(func() { build.path, build.err = compile() })
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.path
}

func compile() (string, error) {
	_, here, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(here), "..", "..", "..")
	out := filepath.Join(root, "bin", "etcd")
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(out+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", out, ".")
	cmd.Dir = filepath.Join(root, "test", "etcd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building etcd: %w\n%s", err, text)
	}
	return out, nil
}
