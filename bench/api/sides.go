package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"proa/test/upstream"
)

// side is a server that is measured.
type side struct {
	name   string
	config *rest.Config
	client *kubernetes.Clientset
	pids   []int
	stop   func() error
}

func startSides(ctx context.Context) (sides []*side, err error) {
	if *kubeconfig != "" {
		s, err := newSide("server", *kubeconfig, func() error { return nil })
		for _, pid := range strings.Split(*pids, ",") {
			n, _ := strconv.Atoi(pid) // 0 has no statistics, which is said then
			s.pids = append(s.pids, n)
		}
		return []*side{s}, err
	}
	for _, start := range []func(context.Context) (*side, error){startProa, startUpstream} {
		s, err := start(ctx)
		if err != nil {
			return sides, err
		}
		if s != nil {
			sides = append(sides, s)
		}
	}
	return sides, nil
}

func newSide(name, kubeconfig string, stop func() error) (*side, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	cfg.QPS = -1
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
	s := &side{name: name, config: cfg, stop: stop}
	if s.client, err = s.connect(); err != nil {
		return nil, errors.Join(err, stop())
	}
	return s, nil
}

// connect makes a client with a connection of its own.
func (s *side) connect() (*kubernetes.Clientset, error) {
	cfg := rest.CopyConfig(s.config)
	cfg.Dial = (&net.Dialer{}).DialContext // a transport is shared only where this is the same
	return kubernetes.NewForConfig(cfg)
}

func startProa(context.Context) (*side, error) {
	if *proa == "" {
		return nil, nil
	}
	dir, err := os.MkdirTemp("", "bench-proa-")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	cmd := exec.Command(*proa, "up", "--no-node", "-o", "json", "--bind-address", "127.0.0.1", "--api-port", port,
		"--data-dir", filepath.Join(dir, "data"), "--run-dir", filepath.Join(dir, "run"))
	cmd.Env, cmd.Stderr = append(os.Environ(), "HOME="+dir), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: `make build` builds it", err)
	}
	stop := func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM) // may have ended
		return errors.Join(cmd.Wait(), os.RemoveAll(dir))
	}
	var ready struct {
		Kubeconfig string `json:"kubeconfig"`
	}
	if err := json.NewDecoder(out).Decode(&ready); err != nil {
		return nil, errors.Join(fmt.Errorf("proa did not get ready: %w", err), stop())
	}
	s, err := newSide("proa", ready.Kubeconfig, stop)
	if s != nil {
		s.pids = []int{cmd.Process.Pid}
	}
	return s, err
}

func startUpstream(ctx context.Context) (*side, error) {
	if *upstreams == "" {
		return nil, nil
	}
	dir, err := os.MkdirTemp("", "bench-upstream-")
	if err != nil {
		return nil, err
	}
	plane, err := upstream.Start(ctx, upstream.Config{Bin: *upstreams, Dir: dir})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	s, err := newSide("upstream", plane.Kubeconfig, func() error { return errors.Join(plane.Stop(), os.RemoveAll(dir)) })
	if s != nil {
		s.pids = plane.PIDs()
	}
	return s, err
}

// cpu is what the threads of the server's processes have used so far. The
// kernel keeps it in nanoseconds; Go's threads stay.
func (s *side) cpu() (sum time.Duration, err error) {
	for _, pid := range s.pids {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil || len(threads) == 0 {
			return 0, errors.Join(err, fmt.Errorf("process %d has no threads", pid))
		}
		for _, thread := range threads {
			data, err := os.ReadFile(thread)
			if err != nil {
				continue // it has ended, with what little it did since it began
			}
			var ns int64
			if _, err := fmt.Sscan(string(data), &ns); err != nil {
				return 0, fmt.Errorf("%s: %w", thread, err)
			}
			sum += time.Duration(ns)
		}
	}
	return sum, nil
}

// memory is what the server's processes hold, in bytes.
func (s *side) memory() (rss, anon float64, err error) {
	for _, pid := range s.pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return 0, 0, err
		}
		for _, line := range strings.Split(string(data), "\n") {
			var kb float64
			if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kb); err == nil {
				rss += kb * 1024
			} else if _, err := fmt.Sscanf(line, "RssAnon: %f kB", &kb); err == nil {
				anon += kb * 1024
			}
		}
	}
	return rss, anon, nil
}

// profile begins a CPU profile of the API server, which ends after the shortest
// time that shows something; end waits for that and keeps it.
func (s *side) profile(ctx context.Context, what string) (end func() error) {
	done := make(chan error, 1)
	go func() {
		body, err := s.client.RESTClient().Get().AbsPath("/debug/pprof/profile").Param("seconds", "4").Stream(ctx)
		if err != nil {
			done <- err
			return
		}
		defer body.Close()
		f, err := os.Create(filepath.Join(*profiles, s.name+"-"+strings.ReplaceAll(what, " ", "-")+".pprof"))
		if err == nil {
			_, err = io.Copy(f, body)
			err = errors.Join(err, f.Close())
		}
		done <- err
	}()
	return func() error { return <-done }
}
