// Package runtime is the container runtime: CRI's RuntimeService in process, on
// libcontainer, with one shim process a pod (package shim) that outlives the
// daemon.
//
// What it promises:
//   - Errors are gRPC status codes, as CRI says: NotFound for what does not
//     exist, Remove and Stop succeed when it is done already.
//   - A container runs on when the daemon dies; New finds it again and learns
//     what happened meanwhile, exit codes and times included.
//   - Whatever instant the daemon is killed at, the next New takes down what was
//     half made.
//   - After a reboot sandboxes are listed as not ready and containers as exited,
//     so that restart counts go on.
//   - Nothing polls: exits and the end of a shim arrive over the shim's socket.
//
// Only package shim links libcontainer; this one does not even need cgo.
package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/image"
	"proa/network"
)

// Images are where containers' root file systems come from; *image.Store.
type Images interface {
	Get(ref string) (image.Image, bool)
	// Prepare returns the writable root of a container, kept under key.
	Prepare(ctx context.Context, imageID, key string) (image.Rootfs, error)
	Release(key string) error
	Usage(key string) (bytes, inodes int64, err error)
	// Containers are the keys that are kept.
	Containers() []string
}

// Network gives a sandbox its network; *network.Network.
type Network interface {
	Attach(ctx context.Context, p network.Pod) (network.Result, error) // idempotent
	Detach(ctx context.Context, p network.Pod) error                   // idempotent, also when the namespace is gone
}

// Config is what a Runtime needs.
type Config struct {
	Root       string // what survives a reboot
	Run        string // sockets and state; cleared by a reboot
	Images     Images
	Network    Network
	CgroupRoot string // "proa": where sandboxes without a cgroup parent go, and the shims
	// Shim is the path of a shim binary; "" takes the embedded one.
	Shim string
	Log  *slog.Logger
}

// Version is what CRI's Version reports, for nodeInfo.containerRuntimeVersion.
var Version = "0.1.0"

// Runtime implements CRI's RuntimeService.
type Runtime struct {
	cfg        Config
	log        *slog.Logger
	shim       string
	version    cgroupVersion
	streams    streamServer
	events     events
	nano       nanoCores
	expediting atomic.Bool
	filters    sync.Map // hashes of seccomp profiles the shim has prepared

	watches sync.WaitGroup // one a live shim, and short work for them
	closing chan struct{}

	// mu guards what follows and the records in it; nothing is waited for and
	// no file is touched under it.
	mu         sync.RWMutex
	sandboxes  map[string]*sandbox
	containers map[string]*container
}

var _ cri.RuntimeService = (*Runtime)(nil)

// New finds what is there, connects to the shims that live, and cleans up what
// was half made.
func New(cfg Config) (*Runtime, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Runtime{
		cfg: cfg, log: cfg.Log,
		version:    detectCgroups(),
		closing:    make(chan struct{}),
		sandboxes:  map[string]*sandbox{},
		containers: map[string]*container{},
	}
	r.streams.streamer, r.streams.promised = streamer{r}, map[string]promise{}
	for _, dir := range []string{r.sandboxRecords(), r.containerRecords(), r.runDir("sandboxes"), r.runDir("rootfs")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	var err error
	if r.shim, err = shimBinary(cfg); err != nil {
		return nil, err
	}
	r.warmFilter(defaultSeccomp(defaultCapabilities))
	if err := r.recover(context.Background()); err != nil {
		return nil, errors.Join(err, r.Close(context.Background()))
	}
	return r, nil
}

// Close lets go of the shims; the containers run on. The context is CRI's and
// not needed.
func (r *Runtime) Close(context.Context) error {
	r.mu.Lock()
	select {
	case <-r.closing:
	default:
		close(r.closing)
	}
	for _, s := range r.sandboxes {
		if s.watch != nil {
			s.watch.Close()
		}
	}
	r.mu.Unlock()
	r.watches.Wait()
	return nil
}

// background runs short work that Close waits for.
func (r *Runtime) background(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed() {
		r.watches.Go(f)
	}
}

func (r *Runtime) closed() bool {
	select {
	case <-r.closing:
		return true
	default:
		return false
	}
}

func (r *Runtime) runDir(elem ...string) string {
	return filepath.Join(append([]string{r.cfg.Run}, elem...)...)
}

// Version implements CRI.
func (r *Runtime) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "proa",
		RuntimeVersion: Version, RuntimeApiVersion: "v1"}, nil
}

// Status implements CRI: a runtime that was made is ready, and so is the
// network it was given.
func (r *Runtime) Status(_ context.Context, verbose bool) (*runtimeapi.StatusResponse, error) {
	resp := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: true},
			{Type: runtimeapi.NetworkReady, Status: true},
		}},
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{{
			Features: &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: recursiveReadOnly()},
		}},
		Features: &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true},
	}
	if verbose {
		resp.Info = map[string]string{"golang": goruntime.Version(), "shim": r.shim}
	}
	return resp, nil
}

// UpdateRuntimeConfig implements CRI; the pod network has its own configuration.
func (r *Runtime) UpdateRuntimeConfig(context.Context, *runtimeapi.RuntimeConfig) error { return nil }

// RuntimeConfig implements CRI.
func (r *Runtime) RuntimeConfig(context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{
		CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS}}, nil
}

func notFound(what, id string) error {
	return status.Errorf(codes.NotFound, "%s %q: not found", what, id)
}

func invalid(format string, args ...any) error {
	return status.Error(codes.InvalidArgument, fmt.Sprintf(format, args...))
}

// failed gives an error a code and says what was tried.
func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	code := codes.Unknown
	if s, ok := status.FromError(err); ok {
		code = s.Code()
	}
	switch {
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	}
	return status.Errorf(code, "%s: %v", what, err)
}
