package runtime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"proa/runtime/wire"
)

// socketName is the shim's socket in its sandbox's run directory.
const socketName = "sock"

// shimEnv keeps a shim small and quick: few threads, and no garbage collection
// but the one it does itself once it is idle.
var shimEnv = []string{"GOMAXPROCS=2", "GOGC=off", "GOMEMLIMIT=32MiB"}

// spawn starts a sandbox's shim in namespaces of its own. The socket listens
// before the process exists, so there is nothing to wait for.
func (r *Runtime) spawn(id string, namespaces uintptr) (*exec.Cmd, error) {
	dir := r.runDir("sandboxes", id)
	listener, err := listenIn(dir)
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	file, err := listener.File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	log, err := os.OpenFile(filepath.Join(dir, "shim.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(r.shim, "pod")
	cmd.Dir, cmd.Env = "/", shimEnv
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{file}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: namespaces}
	if group := r.shimCgroup(); group != nil {
		defer group.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the pod's shim: %w", err)
	}
	return cmd, nil
}

// listenIn listens at dir/sock. The directory goes by descriptor: a socket's
// path has room for 107 bytes only.
func listenIn(dir string) (*net.UnixListener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: socketPath(d)})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

func socketPath(dir *os.File) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketName)
}

func (r *Runtime) dial(id string) (wire.Conn, error) {
	d, err := os.Open(r.runDir("sandboxes", id))
	if err != nil {
		return wire.Conn{}, err
	}
	defer d.Close()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: socketPath(d)})
	return wire.Conn{UnixConn: c}, err
}

// open sends a request to a sandbox's shim; the connection stays for more
// responses, until ctx ends at the latest.
func (r *Runtime) open(ctx context.Context, sandbox string, req *wire.Request, files ...*os.File) (wire.Conn, func(), error) {
	conn, err := r.dial(sandbox)
	if err != nil {
		return conn, nil, fmt.Errorf("the sandbox's shim is gone: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	end := func() { stop(); conn.Close() }
	if err := conn.Send(req, files...); err != nil {
		end()
		return conn, nil, fmt.Errorf("the sandbox's shim is gone: %w", err)
	}
	return conn, end, nil
}

// call sends a request and returns the one response.
func (r *Runtime) call(ctx context.Context, sandbox string, req *wire.Request) (*wire.Response, []*os.File, error) {
	conn, end, err := r.open(ctx, sandbox, req)
	if err != nil {
		return nil, nil, err
	}
	defer end()
	return answer(ctx, conn)
}

// answer reads a response; an error in it is returned as one.
func answer(ctx context.Context, conn wire.Conn) (*wire.Response, []*os.File, error) {
	resp := new(wire.Response)
	files, err := conn.Recv(resp)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		return nil, nil, fmt.Errorf("the sandbox's shim is gone: %w", err)
	}
	if err := resp.Err(); err != nil {
		wire.CloseAll(files)
		return nil, nil, err
	}
	return resp, files, nil
}

func isKind(err error, kind wire.ErrorKind) bool {
	var e *wire.Error
	return errors.As(err, &e) && e.Kind == kind
}

// killShim ends a shim that does not answer, if the process is still one.
func killShim(pid int) {
	if pid <= 1 {
		return
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if !isShim(pid) {
		return
	}
	if unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil {
		awaitExit(fd)
	}
}

// isShim tells whether a process is one of ours and not a later owner of the
// number.
func isShim(pid int) bool {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	argv := strings.Split(string(args), "\x00")
	return len(argv) >= 2 && filepath.Base(argv[0]) == "proa-shim" && argv[1] == "pod"
}

// awaitExit blocks until the process of a pidfd has ended; it has been killed.
func awaitExit(pidfd int) {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 5000)
		if err != unix.EINTR {
			return
		}
	}
}
