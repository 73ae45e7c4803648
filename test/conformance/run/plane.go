package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// plane is a running control plane.
type plane struct {
	kubeconfig string
	dir        string
	cmd        *exec.Cmd
	log        *os.File
	exited     chan error
}

// startTime is what a control plane may take to get ready, on a machine that has
// other things to do.
const startTime = time.Minute

// startPlane runs `proa up --no-node` in a new directory, on a free port.
func startPlane(ctx context.Context, c config) (*plane, error) {
	dir, err := os.MkdirTemp("", "proa-conf")
	if err != nil {
		return nil, err
	}
	p := &plane{dir: dir, kubeconfig: filepath.Join(dir, "kubeconfig"), exited: make(chan error, 1)}
	if err := p.start(ctx, c); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p, nil
}

func (p *plane) start(ctx context.Context, c config) (err error) {
	if p.log, err = os.Create(filepath.Join(c.out, "proa.log")); err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	p.cmd = exec.Command(c.proa, "up", "--no-node", "-o", "json",
		"--data-dir", filepath.Join(p.dir, "data"), "--run-dir", filepath.Join(p.dir, "run"), "--kubeconfig", p.kubeconfig,
		"--bind-address", "127.0.0.1", "--api-port", strconv.Itoa(port))
	p.cmd.Env = append(os.Environ(), "HOME="+p.dir) // no link from ~/.kube/config
	p.cmd.Stderr = p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	ready := make(chan error, 1)
	go func() {
		ready <- json.NewDecoder(bufio.NewReader(out)).Decode(&struct{ Ready bool }{})
		p.exited <- p.cmd.Wait()
	}()
	select {
	case err := <-ready:
		if err != nil {
			return fmt.Errorf("proa did not get ready (%w): see %s", err, p.log.Name())
		}
		return nil
	case <-time.After(startTime):
		return fmt.Errorf("proa was not ready after %v: see %s", startTime, p.log.Name())
	case <-ctx.Done():
		return ctx.Err()
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// stop ends the control plane and removes what it made. An end that nobody asked
// for is an error, even one without a complaint.
func (p *plane) stop() error {
	var err error
	if p.cmd != nil && p.cmd.Process != nil {
		err = p.end()
	}
	if p.log != nil {
		err = errors.Join(err, p.log.Close())
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}

func (p *plane) end() error {
	select {
	case err := <-p.exited:
		return fmt.Errorf("the control plane ended before the tests did (%v): see %s", err, p.log.Name())
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case err := <-p.exited:
		if err != nil {
			return fmt.Errorf("the control plane did not stop cleanly: %w", err)
		}
		return nil
	case <-time.After(startTime):
		return errors.Join(fmt.Errorf("the control plane did not stop within %v", startTime), p.cmd.Process.Kill())
	}
}
