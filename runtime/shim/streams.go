//go:build cgo

package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"proa/runtime/wire"
)

// streams are a container's standard streams: what it writes goes to the log
// and to whoever is attached, what they type goes to it.
type streams struct {
	log       *logFile
	tty       bool
	stdinOnce bool
	child     []*os.File // ends for the container, until it has been started
	console   *os.File   // where libcontainer sends the terminal
	size      wire.Size

	in       *os.File // nil: no stdin
	out, err *os.File // with a terminal, out is it and err is nil

	mu     sync.Mutex
	sinks  map[*sink]struct{}
	drainW sync.WaitGroup
	ended  chan struct{} // all output has been read
}

// sink is an attached client.
type sink struct{ out, err *os.File }

// sinkPatience is how long an attached client may keep output waiting before
// it is let go.
const sinkPatience = 10 * time.Second

func newStreams(r *wire.Start) (*streams, error) {
	log, err := openLog(r.Log)
	if err != nil {
		return nil, err
	}
	s := &streams{log: log, tty: r.Spec.Process.Terminal, stdinOnce: r.StdinOnce,
		sinks: map[*sink]struct{}{}, ended: make(chan struct{})}
	if box := r.Spec.Process.ConsoleSize; box != nil {
		s.size = wire.Size{Width: uint16(box.Width), Height: uint16(box.Height)}
	}
	if err := s.open(r.Stdin); err != nil {
		s.abort()
		return nil, err
	}
	return s, nil
}

// open makes the ends; s.child is stdin (or nil), stdout and stderr, or the
// terminal's socket.
func (s *streams) open(stdin bool) (err error) {
	if s.tty {
		var child *os.File
		s.console, child, err = socketPair()
		s.child = []*os.File{child}
		return err
	}
	s.child = make([]*os.File, 3)
	if stdin {
		if s.child[0], s.in, err = pipe(false); err != nil {
			return err
		}
	}
	if s.child[1], s.out, err = pipe(true); err != nil {
		return err
	}
	s.child[2], s.err, err = pipe(true)
	return err
}

// connect gives the container's ends to its first process.
func (s *streams) connect(p *libcontainer.Process) error {
	if s.tty {
		p.ConsoleSocket = s.child[0]
		p.ConsoleWidth, p.ConsoleHeight = s.size.Width, s.size.Height
		return nil
	}
	if s.child[0] != nil {
		p.Stdin = s.child[0]
	}
	p.Stdout, p.Stderr = s.child[1], s.child[2]
	return nil
}

func (s *streams) childDone() {
	wire.CloseAll(s.child)
	s.child = nil
}

// takeTerminal receives the terminal that the container's init opened.
func (s *streams) takeTerminal() error {
	f, err := receiveTerminal(s.console)
	s.console.Close()
	s.console = nil
	if err != nil {
		return err
	}
	s.in, s.out = f, f
	return nil
}

// pump starts reading what the container writes.
func (s *streams) pump() {
	for name, f := range map[string]*os.File{"stdout": s.out, "stderr": s.err} {
		if f == nil {
			continue
		}
		s.drainW.Add(1)
		go func() {
			defer s.drainW.Done()
			s.copyOut(f, &lines{stream: name})
		}()
	}
	go func() {
		s.drainW.Wait()
		close(s.ended)
	}()
}

// drain waits for the end of output, but not for ever, and closes everything.
func (s *streams) drain(patience time.Duration) {
	select {
	case <-s.ended:
	case <-time.After(patience):
		s.closeEnds()
		<-s.ended
	}
	s.abort()
}

func (s *streams) closeEnds() { wire.CloseAll([]*os.File{s.in, s.out, s.err}) }

// abort closes all there is.
func (s *streams) abort() {
	s.childDone()
	s.closeEnds()
	if s.console != nil {
		s.console.Close()
	}
	s.log.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.sinks {
		s.drop(k)
	}
}

// buffers are shared by all streams; between writes a stream holds none.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func (s *streams) copyOut(f *os.File, l *lines) {
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	var records []byte
	for waitReadable(raw) == nil {
		buf := buffers.Get().(*[32 << 10]byte)
		n, err := f.Read(buf[:])
		if n > 0 {
			records = l.add(records[:0], buf[:n], time.Now())
			s.log.write(records)
			s.tee(l.stream, buf[:n])
		}
		buffers.Put(buf)
		if err != nil {
			break
		}
		if cap(records) > maxLine {
			records = nil
		}
	}
	s.log.write(l.end(nil, time.Now()))
}

func (s *streams) tee(stream string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.sinks {
		f := k.out
		if stream == "stderr" {
			f = k.err
		}
		if f == nil {
			continue
		}
		_ = f.SetWriteDeadline(time.Now().Add(sinkPatience))
		if _, err := f.Write(data); err != nil {
			s.drop(k)
		}
	}
}

// drop lets an attached client go; s.mu is held.
func (s *streams) drop(k *sink) {
	delete(s.sinks, k)
	wire.CloseAll([]*os.File{k.out, k.err})
}

func (s *streams) resize(size *wire.Size) error {
	if !s.tty || size == nil {
		return errors.New("the container has no terminal")
	}
	return winsize(s.out, *size)
}

func winsize(f *os.File, size wire.Size) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ioctl error
	err = raw.Control(func(fd uintptr) {
		ioctl = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
	})
	return errors.Join(err, ioctl)
}

// attach serves a client until it goes or the container ends.
func (s *Shim) attach(conn wire.Conn, req *wire.Request, files []*os.File) {
	a := req.Attach
	c, err := s.container(req.Container)
	if err == nil && a == nil {
		err = errors.New("an attach request without streams")
	}
	var ends []*os.File
	if err == nil {
		ends, err = wire.Streams(files, a.Stdin, a.Stdout, a.Stderr)
	}
	if err == nil {
		err = pollable(ends)
	}
	if err != nil {
		wire.CloseAll(files)
		_ = conn.Send(withError(wire.Response{}, err))
		return
	}
	if !c.io.join(ends) {
		wire.CloseAll(ends)
		_ = conn.Send(withError(wire.Response{}, c.notRunning()))
		return
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = conn.Read(make([]byte, 1))
	}()
	select {
	case <-gone:
		c.io.leave(ends)
	case <-c.done:
		c.io.leave(ends)
		_ = conn.Send(&wire.Response{Exited: true})
	}
}

// join adds a client; false when the output has ended.
func (s *streams) join(ends []*os.File) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ended:
		return false
	default:
	}
	s.sinks[&sink{out: ends[1], err: ends[2]}] = struct{}{}
	if ends[0] != nil {
		go s.copyIn(ends[0])
	}
	return true
}

func (s *streams) leave(ends []*os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.sinks {
		if k.out == ends[1] && k.err == ends[2] {
			s.drop(k)
		}
	}
	wire.CloseAll(ends[:1])
}

// copyIn hands a client's input to the container.
func (s *streams) copyIn(from *os.File) {
	if s.in == nil {
		return
	}
	_, err := io.Copy(struct{ io.Writer }{s.in}, struct{ io.Reader }{from})
	if s.stdinOnce && !s.tty && err == nil {
		s.in.Close()
	}
}

// pipe makes a pipe whose one end is the child's and blocks; the shim's end
// does not, and is the reading one if asked.
func pipe(read bool) (child, own *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("pipe: %w", err)
	}
	c, o := fds[0], fds[1]
	if read {
		c, o = o, c
	}
	if err := unix.SetNonblock(o, true); err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(c), "pipe"), os.NewFile(uintptr(o), "pipe"), nil
}

func socketPair() (own, child *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console"), nil
}

// receiveTerminal reads the terminal that a container's init sends.
func receiveTerminal(socket *os.File) (*os.File, error) {
	name, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), name, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, fmt.Errorf("receive the terminal: %w", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(msgs) != 1 {
		return nil, fmt.Errorf("receive the terminal: %d messages: %w", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("receive the terminal: %d descriptors: %w", len(fds), err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}
