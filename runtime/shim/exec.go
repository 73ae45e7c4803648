//go:build cgo

package shim

import (
	"errors"
	"os"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"proa/runtime/wire"
)

// exec runs a process in a container: first response when it runs, second when
// it has ended. It is killed if the connection closes before.
func (s *Shim) exec(conn wire.Conn, req *wire.Request, files []*os.File) {
	e := req.Exec
	c, err := s.container(req.Container)
	if err == nil && (e == nil || e.Process == nil || len(e.Args) == 0) {
		err = errors.New("an exec request without a command")
	}
	var ends []*os.File
	if err == nil {
		ends, err = wire.Streams(files, e.Stdin, e.Stdout, e.Stderr)
	}
	if err == nil {
		err = blocking(ends)
	}
	if err != nil {
		wire.CloseAll(files)
		_ = conn.Send(withError(wire.Response{}, err))
		return
	}
	status := make(chan unix.WaitStatus, 1)
	var pid int
	var terminal *os.File
	s.onMain(func() {
		pid, terminal, err = s.launchExec(c, e, ends, status)
	})
	wire.CloseAll(ends)
	if err != nil {
		_ = conn.Send(withError(wire.Response{}, err))
		return
	}
	if terminal == nil {
		err = conn.Send(&wire.Response{State: &wire.ContainerState{PID: pid}})
	} else {
		err = conn.Send(&wire.Response{State: &wire.ContainerState{PID: pid}}, terminal)
		terminal.Close()
	}
	if err != nil {
		_ = s.reaper.kill(pid, unix.SIGKILL)
	}
	s.awaitExec(conn, pid, status)
}

func (s *Shim) awaitExec(conn wire.Conn, pid int, status <-chan unix.WaitStatus) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = conn.Read(make([]byte, 1))
	}()
	select {
	case st := <-status:
		_ = conn.Send(&wire.Response{Exited: true, Code: exitCode(st)})
	case <-gone:
		_ = s.reaper.kill(pid, unix.SIGKILL)
	}
}

// launchExec runs on the main thread.
func (s *Shim) launchExec(c *container, e *wire.Exec, ends []*os.File, status chan<- unix.WaitStatus) (int, *os.File, error) {
	lc, err := libcontainer.Load(s.stateDir(), c.id)
	if err != nil {
		return 0, nil, c.notRunning()
	}
	p := newProcess(e.Process)
	p.Args = e.Args
	p.UID, p.GID, p.AdditionalGroups = ids(c.state.User)
	console, err := attachEnds(p, e.TTY, ends)
	if err != nil {
		return 0, nil, err
	}
	err = lc.Start(p)
	var terminal *os.File
	if e.TTY {
		p.ConsoleSocket.Close()
		if err == nil {
			terminal, err = receiveTerminal(console)
		}
		console.Close()
	}
	if errors.Is(err, libcontainer.ErrNotRunning) {
		err = c.notRunning()
	}
	pid, perr := p.Pid()
	if err != nil || perr != nil {
		if perr == nil {
			_ = p.Signal(unix.SIGKILL)
			_, _ = p.Wait()
		}
		return 0, nil, errors.Join(err, perr)
	}
	s.reaper.track(pid, func(st unix.WaitStatus) { status <- st })
	return pid, terminal, nil
}

func attachEnds(p *libcontainer.Process, tty bool, ends []*os.File) (console *os.File, err error) {
	if tty {
		console, p.ConsoleSocket, err = socketPair()
		return console, err
	}
	if ends[0] != nil {
		p.Stdin = ends[0]
	}
	if ends[1] != nil {
		p.Stdout = ends[1]
	}
	if ends[2] != nil {
		p.Stderr = ends[2]
	}
	return nil, nil
}

// newProcess is libcontainer's form of a process.
func newProcess(p *specs.Process) *libcontainer.Process {
	lp := &libcontainer.Process{
		Args:            p.Args,
		Env:             p.Env,
		Cwd:             p.Cwd,
		Label:           p.SelinuxLabel,
		NoNewPrivileges: &p.NoNewPrivileges,
		AppArmorProfile: p.ApparmorProfile,
		LogLevel:        "2", // errors
	}
	lp.UID, lp.GID, lp.AdditionalGroups = ids(&p.User)
	if p.ConsoleSize != nil {
		lp.ConsoleWidth, lp.ConsoleHeight = uint16(p.ConsoleSize.Width), uint16(p.ConsoleSize.Height)
	}
	if c := p.Capabilities; c != nil {
		lp.Capabilities = &configs.Capabilities{Bounding: c.Bounding, Effective: c.Effective,
			Inheritable: c.Inheritable, Permitted: c.Permitted, Ambient: c.Ambient}
	}
	for _, r := range p.Rlimits {
		if kind, ok := rlimits[r.Type]; ok {
			lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: kind, Hard: r.Hard, Soft: r.Soft})
		}
	}
	return lp
}

var rlimits = map[string]int{
	"RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC,
	"RLIMIT_STACK": unix.RLIMIT_STACK,
}

func ids(u *specs.User) (uid, gid int, groups []int) {
	if u == nil {
		return 0, 0, nil
	}
	for _, g := range u.AdditionalGids {
		groups = append(groups, int(g))
	}
	return int(u.UID), int(u.GID), groups
}

// update sets what the container may use from now on. It is all or nothing:
// libcontainer puts the old limits back when the kernel refuses one.
func (s *Shim) update(c *container, r *specs.LinuxResources) (err error) {
	if r == nil {
		return errors.New("an update request without resources")
	}
	s.onMain(func() {
		var lc *libcontainer.Container
		if lc, err = libcontainer.Load(s.stateDir(), c.id); err != nil {
			err = c.notRunning()
			return
		}
		config := lc.Config()
		var next *cgroups.Cgroup
		next, err = specconv.CreateCgroupConfig(&specconv.CreateOpts{CgroupName: c.id,
			Spec: &specs.Spec{Linux: &specs.Linux{CgroupsPath: config.Cgroups.Path, Resources: r}}}, nil)
		if err != nil {
			return
		}
		res := *next.Resources
		res.Devices = config.Cgroups.Resources.Devices
		cg := *config.Cgroups
		cg.Resources = &res
		config.Cgroups = &cg
		err = lc.Set(config)
	})
	return err
}
