package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/network"
	"proa/runtime/wire"
)

// sandbox is a pod's. rec and watch are guarded by Runtime.mu.
type sandbox struct {
	id    string
	op    sync.Mutex // one change at a time
	rec   sandboxRecord
	dead  bool          // its shim has ended
	watch *wire.Conn    // to the shim; nil when there is none
	gone  chan struct{} // closed when the shim that watch followed is no more
}

// quitTime is how long a shim may take to kill its containers and end.
const quitTime = 15 * time.Second

func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// RunPodSandbox implements CRI.
func (r *Runtime) RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	if err := checkSandbox(config, handler); err != nil {
		return "", err
	}
	s, err := r.addSandbox(config, handler)
	if err != nil {
		return "", err
	}
	s.op.Lock()
	defer s.op.Unlock()
	r.expedite()
	if err := r.makeSandbox(ctx, s); err != nil {
		return "", failed("run the pod's sandbox", errors.Join(err, r.eraseSandbox(s)))
	}
	r.sandboxEvent(s, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	r.sandboxEvent(s, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return s.id, nil
}

// addSandbox enters a sandbox into the table, where it reserves its name.
func (r *Runtime) addSandbox(config *runtimeapi.PodSandboxConfig, handler string) (*sandbox, error) {
	id := newID()
	s := &sandbox{id: id, rec: sandboxRecord{ID: id, Phase: phaseMaking, Created: time.Now().UnixNano(), Handler: handler}}
	s.rec.Config.M = config
	name := config.Metadata.String()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, other := range r.sandboxes {
		if other.rec.Config.M.Metadata.String() == name {
			return nil, status.Errorf(codes.AlreadyExists, "sandbox %s has this name, namespace, UID and attempt", other.rec.ID)
		}
	}
	r.sandboxes[s.id] = s
	return s, nil
}

// makeSandbox runs with s.op held.
func (r *Runtime) makeSandbox(ctx context.Context, s *sandbox) error {
	rec := s.rec
	if err := r.saveSandbox(rec); err != nil {
		return err
	}
	if err := r.makeFiles(rec); err != nil {
		return err
	}
	cmd, err := r.spawn(rec.ID, namespacesOf(rec.Config.M))
	if err != nil {
		return err
	}
	rec.Shim = cmd.Process.Pid
	_ = cmd.Process.Release()
	if err := r.saveSandbox(rec); err != nil { // so that an interrupted New finds the process
		return err
	}
	resp, _, err := r.call(ctx, rec.ID, &wire.Request{Op: wire.OpPod, Pod: r.shimPod(rec)})
	if err != nil {
		killShim(rec.Shim)
		reap(rec.Shim)
		return fmt.Errorf("%w%s", err, r.shimLog(rec.ID))
	}
	rec.Pause = resp.Pause
	r.setSandbox(s, rec)
	if _, err := r.followShim(s); err != nil {
		return err
	}
	if !hostNetwork(rec.Config.M) {
		got, err := r.cfg.Network.Attach(ctx, networkPod(rec))
		if err != nil {
			return fmt.Errorf("attach the pod to the network: %w", err)
		}
		rec.IPs = got.IPs
	}
	rec.Phase = phaseRunning
	if !r.setReady(s, rec) {
		return errors.New("the pod's shim ended" + r.shimLog(rec.ID))
	}
	return r.saveSandbox(rec)
}

// setReady makes the sandbox ready unless its shim has ended meanwhile.
func (r *Runtime) setReady(s *sandbox, rec sandboxRecord) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.dead {
		return false
	}
	s.rec = rec
	return true
}

// sandboxRecord is the sandbox's record as it is now.
func (r *Runtime) sandboxRecord(s *sandbox) sandboxRecord {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return s.rec
}

func (r *Runtime) setSandbox(s *sandbox, rec sandboxRecord) {
	r.mu.Lock()
	s.rec = rec
	r.mu.Unlock()
}

// shimLog is what the shim had to say, for an error message.
func (r *Runtime) shimLog(id string) string {
	data, _ := os.ReadFile(r.runDir("sandboxes", id, "shim.log"))
	text := strings.TrimSpace(string(data))
	if text == "" {
		return ""
	}
	return ": " + text[max(0, len(text)-500):]
}

// StopPodSandbox implements CRI: kills the containers, ends the shim and takes
// the network away.
func (r *Runtime) StopPodSandbox(ctx context.Context, id string) error {
	s, err := r.findSandbox(id)
	if status.Code(err) == codes.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	s.op.Lock()
	defer s.op.Unlock()
	return failed("stop the pod's sandbox", r.stopSandbox(ctx, s))
}

// stopSandbox runs with s.op held and may be repeated.
func (r *Runtime) stopSandbox(ctx context.Context, s *sandbox) error {
	r.endShim(s)
	rec := r.sandboxRecord(s)
	var errs []error
	if !hostNetwork(rec.Config.M) {
		errs = append(errs, r.cfg.Network.Detach(ctx, networkPod(rec)))
	}
	errs = append(errs, r.removeFiles(rec.ID))
	if rec.Phase != phaseMaking {
		rec.Phase, rec.Shim, rec.Pause = phaseEnded, 0, 0
		r.setSandbox(s, rec)
		errs = append(errs, r.saveSandbox(rec))
	}
	return errors.Join(errs...)
}

// endShim has the shim kill its containers and end, or kills it.
func (r *Runtime) endShim(s *sandbox) {
	r.mu.RLock()
	rec, gone := s.rec, s.gone
	r.mu.RUnlock()
	if gone == nil {
		r.quitShim(rec.ID) // its process ID may never have been recorded
		killShim(rec.Shim)
		reap(rec.Shim)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), quitTime)
	defer cancel()
	if _, end, err := r.open(ctx, rec.ID, &wire.Request{Op: wire.OpQuit}); err == nil {
		defer end()
	}
	select {
	case <-gone:
	case <-ctx.Done():
		r.log.Warn("a pod's shim does not end and is killed", "sandbox", rec.ID, "pid", rec.Shim)
		killShim(rec.Shim)
		<-gone
	}
}

// RemovePodSandbox implements CRI.
func (r *Runtime) RemovePodSandbox(ctx context.Context, id string) error {
	s, err := r.findSandbox(id)
	if status.Code(err) == codes.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	s.op.Lock()
	defer s.op.Unlock()
	if err := r.stopSandbox(ctx, s); err != nil {
		return failed("remove the pod's sandbox", err)
	}
	for _, c := range r.containersOf(s.id) {
		if err := r.removeContainer(ctx, c); err != nil {
			return err
		}
	}
	if err := r.eraseSandbox(s); err != nil {
		return failed("remove the pod's sandbox", err)
	}
	r.sandboxEvent(s, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	return nil
}

// eraseSandbox takes down whatever there is and forgets it.
func (r *Runtime) eraseSandbox(s *sandbox) error {
	if err := r.stopSandbox(context.Background(), s); err != nil {
		return err
	}
	if err := removeRecord(r.sandboxRecords(), s.id); err != nil {
		return err
	}
	r.nano.forget(s.id)
	r.mu.Lock()
	delete(r.sandboxes, s.id)
	r.mu.Unlock()
	return nil
}

// UpdatePodSandboxResources implements CRI: the pod's cgroup is the kubelet's,
// so there is nothing to do but to know the pod.
func (r *Runtime) UpdatePodSandboxResources(_ context.Context, req *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	if _, err := r.findSandbox(req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}

// CheckpointPod implements CRI.
func (r *Runtime) CheckpointPod(context.Context, *runtimeapi.CheckpointPodRequest) error {
	return status.Error(codes.Unimplemented, "pods cannot be checkpointed")
}

// RestorePod implements CRI.
func (r *Runtime) RestorePod(context.Context, *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	return nil, status.Error(codes.Unimplemented, "pods cannot be restored")
}

// findSandbox knows IDs and prefixes that only one ID has.
func (r *Runtime) findSandbox(id string) (*sandbox, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s, err := lookUp(r.sandboxes, "sandbox", id)
	if err == nil && s.rec.Phase == phaseMaking {
		return nil, notFound("sandbox", id)
	}
	return s, err
}

// lookUp finds by full ID or by a prefix of exactly one.
func lookUp[T any](table map[string]T, what, id string) (found T, err error) {
	if v, ok := table[id]; ok {
		return v, nil
	}
	matches := 0
	if id != "" {
		for k, v := range table {
			if strings.HasPrefix(k, id) {
				found, matches = v, matches+1
			}
		}
	}
	switch matches {
	case 0:
		return found, notFound(what, id)
	case 1:
		return found, nil
	}
	return found, invalid("%s %q: %d have an ID that begins so", what, id, matches)
}

// checkSandbox refuses what cannot be run.
func checkSandbox(config *runtimeapi.PodSandboxConfig, handler string) error {
	m := config.GetMetadata()
	switch {
	case m.GetName() == "" || m.GetNamespace() == "" || m.GetUid() == "":
		return invalid("a sandbox needs a name, a namespace and a UID")
	case handler != "" && handler != "proa" && handler != "runc":
		return invalid("no runtime handler %q: there is only the default one", handler)
	case len(config.GetHostname()) > 64:
		return invalid("host name %q is longer than 64 bytes", config.GetHostname())
	case options(config).GetUsernsOptions().GetMode() == runtimeapi.NamespaceMode_POD &&
		options(config).GetUsernsOptions() != nil:
		return invalid("pods with a user namespace of their own are not supported")
	}
	if _, err := cgroupPath(config.GetLinux().GetCgroupParent(), "x"); err != nil {
		return err
	}
	for name := range config.GetLinux().GetSysctls() {
		if err := checkSysctl(name, options(config)); err != nil {
			return err
		}
	}
	return nil
}

// checkSysctl lets through only what a namespace of the pod's own confines
// (https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/).
func checkSysctl(name string, opts *runtimeapi.NamespaceOption) error {
	dotted := strings.ReplaceAll(name, "/", ".")
	net := strings.HasPrefix(dotted, "net.")
	ipc := strings.HasPrefix(dotted, "fs.mqueue.") || slices.Contains([]string{"kernel.msgmax", "kernel.msgmnb",
		"kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"}, dotted)
	switch {
	case strings.Contains(dotted, ".."):
		return invalid("sysctl %q: not a name", name)
	case net && opts.GetNetwork() != runtimeapi.NamespaceMode_NODE, ipc && opts.GetIpc() != runtimeapi.NamespaceMode_NODE:
		return nil
	case net || ipc:
		return invalid("sysctl %q: the pod shares the node's namespace", name)
	}
	return invalid("sysctl %q is not namespaced", name)
}

func options(config *runtimeapi.PodSandboxConfig) *runtimeapi.NamespaceOption {
	return config.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

func hostNetwork(config *runtimeapi.PodSandboxConfig) bool {
	return options(config).GetNetwork() == runtimeapi.NamespaceMode_NODE
}

// namespacesOf are the clone(2) flags of a sandbox. A pod on the node's network
// has the node's name, too.
func namespacesOf(config *runtimeapi.PodSandboxConfig) (flags uintptr) {
	if !hostNetwork(config) {
		flags |= unix.CLONE_NEWNET | unix.CLONE_NEWUTS
	}
	if options(config).GetIpc() != runtimeapi.NamespaceMode_NODE {
		flags |= unix.CLONE_NEWIPC
	}
	return flags
}

func (r *Runtime) shimPod(rec sandboxRecord) *wire.Pod {
	config := rec.Config.M
	p := &wire.Pod{ID: rec.ID, Dir: r.runDir("sandboxes", rec.ID), Sysctls: map[string]string{},
		Pause: options(config).GetPid() == runtimeapi.NamespaceMode_POD}
	if !hostNetwork(config) {
		p.Loopback, p.Hostname = true, config.GetHostname()
		// As every container runtime does it: ports below 1024 and ping need no
		// privilege inside a pod.
		p.Sysctls["net.ipv4.ip_unprivileged_port_start"] = "0"
		p.Sysctls["net.ipv4.ping_group_range"] = "0 2147483647"
	}
	maps.Copy(p.Sysctls, config.GetLinux().GetSysctls())
	return p
}

// networkPod is what the network needs to know. The namespace's path is good
// while the shim lives; a shim that ends takes the namespace and its links along.
func networkPod(rec sandboxRecord) network.Pod {
	config := rec.Config.M
	p := network.Pod{ID: rec.ID, Namespace: config.Metadata.Namespace, Name: config.Metadata.Name, UID: config.Metadata.Uid,
		Ingress: bandwidth(config, "kubernetes.io/ingress-bandwidth"),
		Egress:  bandwidth(config, "kubernetes.io/egress-bandwidth")}
	if rec.Shim != 0 {
		p.NetNS = fmt.Sprintf("/proc/%d/ns/net", rec.Shim)
	}
	for _, m := range config.GetPortMappings() {
		if m.HostPort <= 0 || m.HostPort > 65535 || m.ContainerPort <= 0 || m.ContainerPort > 65535 {
			continue
		}
		ip, _ := netip.ParseAddr(m.HostIp)
		p.Ports = append(p.Ports, network.Port{Protocol: m.Protocol.String(), Container: uint16(m.ContainerPort),
			Host: uint16(m.HostPort), HostIP: ip})
	}
	return p
}

func bandwidth(config *runtimeapi.PodSandboxConfig, annotation string) int64 {
	q, err := resource.ParseQuantity(config.GetAnnotations()[annotation])
	if err != nil {
		return 0
	}
	return max(q.Value(), 0)
}
