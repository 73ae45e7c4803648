package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"proa/runtime/wire"
)

// maxExecOutput bounds each stream of ExecSync, as CRI says.
const maxExecOutput = 16 << 20

// drainTime is how long output is still read after an exec'd process has ended:
// a child that it left behind may hold the pipe for ever.
const drainTime = 10 * time.Second

// stdio are the streams of an exec'd process; nil ones it does not have.
type stdio struct {
	in       io.Reader
	out, err io.Writer
	tty      bool
	resize   <-chan wire.Size
}

// ExecSync implements CRI. A command that ends with another code than 0 is an
// an utilexec.ExitError.
func (r *Runtime) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, err error) {
	rec, err := r.runningContainer(id)
	if err != nil {
		return nil, nil, err
	}
	run := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		run, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	var out, errOut bounded
	code, err := r.exec(run, rec, cmd, stdio{out: &out, err: &errOut})
	switch {
	case err != nil && ctx.Err() == nil && run.Err() != nil:
		err = status.Errorf(codes.DeadlineExceeded, "command %q timed out after %v", cmd, timeout)
	case err != nil:
		err = failed("exec in container", err)
	case code != 0:
		err = exitError(code)
	}
	return out.buf.Bytes(), errOut.buf.Bytes(), err
}

func exitError(code int) error {
	return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
}

// bounded keeps the first maxExecOutput bytes and takes the rest as if it did.
type bounded struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.Write(p[:min(len(p), maxExecOutput-b.buf.Len())])
	return len(p), nil
}

// exec runs a process and returns its exit code. If ctx ends first it is killed.
func (r *Runtime) exec(ctx context.Context, rec containerRecord, args []string, std stdio) (int, error) {
	if len(args) == 0 {
		return 0, invalid("exec without a command")
	}
	process := *rec.Process
	if std.tty {
		process.Env = append(process.Env[:len(process.Env):len(process.Env)], "TERM=xterm")
	}
	req := &wire.Request{Op: wire.OpExec, Container: rec.ID, Exec: &wire.Exec{Args: args, TTY: std.tty, Process: &process}}
	var p pipes
	defer p.close()
	if !std.tty {
		if err := p.open(std); err != nil {
			return 0, err
		}
		req.Exec.Stdin, req.Exec.Stdout, req.Exec.Stderr = std.in != nil, std.out != nil, std.err != nil
	}
	conn, end, err := r.open(ctx, rec.Sandbox, req, p.theirs...)
	if err != nil {
		return 0, err
	}
	defer end()
	p.closeTheirs()
	_, files, err := answer(ctx, conn)
	if err != nil {
		return 0, err
	}
	if std.tty {
		if len(files) != 1 {
			wire.CloseAll(files)
			return 0, errors.New("the shim sent no terminal")
		}
		if err := p.openTerminal(files[0], std); err != nil {
			return 0, err
		}
	}
	p.run(std)
	resp, _, err := answer(ctx, conn)
	if err != nil {
		return 0, err
	}
	p.drain(ctx)
	return resp.Code, nil
}

// pipes carry a process's streams to and from ours.
type pipes struct {
	theirs       []*os.File
	in, out, err *os.File
	output       sync.WaitGroup
	// stuck says that who reads the output does not take it: its end is not waited for.
	stuck bool
}

func (p *pipes) open(std stdio) error {
	make := func(read bool) (*os.File, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		ours, theirs := r, w
		if !read {
			ours, theirs = w, r
		}
		p.theirs = append(p.theirs, theirs)
		return ours, nil
	}
	var err error
	if std.in != nil {
		if p.in, err = make(false); err != nil {
			return err
		}
	}
	if std.out != nil {
		if p.out, err = make(true); err != nil {
			return err
		}
	}
	if std.err != nil {
		p.err, err = make(true)
	}
	return err
}

func (p *pipes) openTerminal(f *os.File, std stdio) error {
	// A file of the runtime's poller: reading it must end when it is closed.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	f.Close()
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	p.out = os.NewFile(uintptr(fd), "terminal")
	if std.in != nil {
		p.in = p.out
	}
	return nil
}

// run copies until the streams end. Input is copied as long as the reader gives
// some: whoever owns it ends it.
func (p *pipes) run(std stdio) {
	if p.in != nil {
		go func() {
			_, _ = io.Copy(struct{ io.Writer }{p.in}, std.in)
			if !std.tty {
				p.in.Close()
			}
		}()
	}
	if p.out != nil && std.out != nil {
		p.output.Go(func() { _, _ = io.Copy(std.out, struct{ io.Reader }{p.out}) })
	}
	if p.err != nil {
		p.output.Go(func() { _, _ = io.Copy(std.err, struct{ io.Reader }{p.err}) })
	}
	if std.tty && std.resize != nil {
		go func() {
			for size := range std.resize {
				setSize(p.out, size)
			}
		}()
	}
}

func setSize(f *os.File, size wire.Size) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
	})
}

// drain waits for what is still in the pipes.
func (p *pipes) drain(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		p.output.Wait()
		close(done)
	}()
	timer := time.NewTimer(drainTime)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		p.stuck = true
	case <-ctx.Done():
	}
}

func (p *pipes) closeTheirs() {
	wire.CloseAll(p.theirs)
	p.theirs = nil
}

func (p *pipes) close() {
	p.closeTheirs()
	wire.CloseAll([]*os.File{p.in, p.out, p.err})
	if !p.stuck {
		p.output.Wait()
	}
}

// attach joins a container's streams until it ends or the client goes.
func (r *Runtime) attach(ctx context.Context, rec containerRecord, std stdio) error {
	if std.in != nil && !rec.Config.M.Stdin {
		std.in = nil
	}
	var p pipes
	defer p.close()
	tty := std.tty
	std.tty = false // the terminal stays with the shim; here are pipes
	if err := p.open(std); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if tty && std.resize != nil {
		go r.resizeLoop(ctx, rec, std.resize)
	}
	conn, end, err := r.open(ctx, rec.Sandbox, &wire.Request{Op: wire.OpAttach, Container: rec.ID,
		Attach: &wire.Attach{Stdin: std.in != nil, Stdout: std.out != nil, Stderr: std.err != nil}}, p.theirs...)
	if err != nil {
		return err
	}
	defer end()
	p.closeTheirs()
	p.run(std)
	if _, _, err := answer(ctx, conn); err != nil {
		return err
	}
	p.drain(ctx)
	return nil
}

func (r *Runtime) resizeLoop(ctx context.Context, rec containerRecord, sizes <-chan wire.Size) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			_, _, _ = r.call(ctx, rec.Sandbox, &wire.Request{Op: wire.OpResize, Container: rec.ID, Size: &size})
		case <-ctx.Done():
			return
		}
	}
}

// Exec implements CRI: the URL's path is served by Streams.
func (r *Runtime) Exec(_ context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if err := checkStreams(req.GetTty(), req.GetStdin(), req.GetStdout(), req.GetStderr()); err != nil {
		return nil, err
	}
	if len(req.GetCmd()) == 0 {
		return nil, invalid("exec without a command")
	}
	if _, err := r.runningContainer(req.GetContainerId()); err != nil {
		return nil, err
	}
	url, err := r.streams.promise("exec", req)
	return &runtimeapi.ExecResponse{Url: url}, err
}

// Attach implements CRI: the URL's path is served by Streams.
func (r *Runtime) Attach(_ context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if err := checkStreams(req.GetTty(), req.GetStdin(), req.GetStdout(), req.GetStderr()); err != nil {
		return nil, err
	}
	if _, err := r.runningContainer(req.GetContainerId()); err != nil {
		return nil, err
	}
	url, err := r.streams.promise("attach", req)
	return &runtimeapi.AttachResponse{Url: url}, err
}

func checkStreams(tty, stdin, stdout, stderr bool) error {
	switch {
	case tty && stderr:
		return invalid("a terminal has no stderr of its own")
	case !stdin && !stdout && !stderr:
		return invalid("one of stdin, stdout and stderr must be set")
	}
	return nil
}

// PortForward implements CRI: the URL's path is served by Streams.
func (r *Runtime) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	s, err := r.findSandbox(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	rec := r.sandboxRecord(s)
	if rec.Phase != phaseRunning {
		return nil, status.Errorf(codes.FailedPrecondition, "sandbox %s is not ready", rec.ID)
	}
	url, err := r.streams.promise("portforward", &runtimeapi.PortForwardRequest{PodSandboxId: rec.ID, Port: req.Port})
	return &runtimeapi.PortForwardResponse{Url: url}, err
}
