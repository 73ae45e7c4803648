// Package kubelet is the node agent: it makes a node's pods run over the CRI
// interfaces and reports how they are.
//
// What to do next for a pod is decided in kubelet/lifecycle, which is pure; a
// worker a pod carries it out (worker.go), one step at a time, parked while there
// is nothing to do. What a pod is turned into for the runtime is in kubelet/spec,
// its files in kubelet/volume, its cgroups in kubelet/cgroup, its probes in
// kubelet/probe, reading and rotating logs in kubelet/logs.
//
// Nothing polls: pods, ConfigMaps and Secrets arrive by watches, exits of
// containers by the runtime's events, and timers exist only for what the API
// promises at a time (leases, probes, back-off, grace periods, tokens). A restart
// of the kubelet, or of the process around it, leaves the containers alone.
package kubelet

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	criapi "k8s.io/cri-api/pkg/apis"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/client"
	"proa/client/events"
	"proa/kubelet/cgroup"
	"proa/kubelet/lifecycle"
	"proa/kubelet/spec"
	"proa/kubelet/volume"
)

// Version is what nodes report as theirs.
const Version = "v1.37.2+proa"

// Config is what a kubelet needs.
type Config struct {
	NodeName string
	NodeIPs  []netip.Addr
	Client   client.Client
	Runtime  criapi.RuntimeService
	Images   criapi.ImageManagerService
	// Streams serves the runtime's stream URLs that are a path only.
	Streams http.Handler
	// Root survives a reboot (volumes, logs), Run does not.
	Root, Run string
	// CgroupRoot is the cgroup of all pods, below the hierarchy's root.
	CgroupRoot                string
	ClusterDNS                []netip.Addr
	ClusterDomain, ResolvConf string
	PodCIDR                   netip.Prefix
	MaxPods                   int // 0: 110
	Port                      int // of the kubelet's server, as the Node shows it
	// BeforeStop, if set, returns when no new connection is sent to the pod any
	// more; its context bounds it.
	BeforeStop func(ctx context.Context, pod *corev1.Pod)
	Log        *slog.Logger
}

// Kubelet is one node's agent.
type Kubelet struct {
	cfg     Config
	log     *slog.Logger
	node    *spec.Node
	machine machine
	runtime string // its name, the scheme of container IDs
	version string
	events  *events.Recorder
	cgroups *cgroup.Tree
	volumes *volume.Manager
	refs    *references
	logs    *rotation
	images  pulls
	handler http.Handler

	classes sync.Mutex // held while shares is set
	shares  int64      // of all burstable pods, as last set

	effects sync.WaitGroup // everything that workers have started

	mu       sync.Mutex
	workers  map[types.UID]*worker
	own      atomic.Pointer[corev1.Node] // this node's object, as last seen
	relist   chan struct{}               // images changed: the node's list is to be renewed
	imageUse map[string]time.Time        // when an image was last in use; keepNode's
}

// New looks at the machine. It changes nothing yet.
func New(cfg Config) (*Kubelet, error) {
	if cfg.MaxPods == 0 {
		cfg.MaxPods = 110
	}
	tree, err := cgroup.Open("/sys/fs/cgroup")
	if err != nil {
		return nil, err
	}
	m, err := readMachine(cfg.Root)
	if err != nil {
		return nil, err
	}
	k := &Kubelet{
		cfg: cfg, log: cfg.Log, machine: m, cgroups: tree,
		workers: map[types.UID]*worker{},
		relist:  make(chan struct{}, 1),
	}
	k.node = k.facts()
	k.events = events.New(cfg.Client, "kubelet", cfg.NodeName, cfg.Log)
	k.volumes = &volume.Manager{Root: filepath.Join(cfg.Root, "pods"), Client: cfg.Client, Node: k.node, Sources: sources{cfg.Client}}
	k.refs = newReferences(cfg.Client, cfg.Log)
	k.logs = newRotation(k)
	k.handler = k.routes()
	return k, nil
}

// facts is what pods' configurations take from this node.
func (k *Kubelet) facts() *spec.Node {
	n := &spec.Node{
		Name: k.cfg.NodeName, CgroupRoot: k.cfg.CgroupRoot, LogRoot: filepath.Join(k.cfg.Root, "logs"),
		ClusterDomain: k.cfg.ClusterDomain, Capacity: k.machine.capacity(k.cfg.MaxPods), Allocatable: k.machine.allocatable(k.cfg.MaxPods),
	}
	for _, a := range k.cfg.NodeIPs {
		n.HostIPs = append(n.HostIPs, a.String())
	}
	for _, a := range k.cfg.ClusterDNS {
		n.ClusterDNS = append(n.ClusterDNS, a.String())
	}
	return n
}

// sandboxConfig is a pod's sandbox with the machine's resolvers as they are now.
func (k *Kubelet) sandboxConfig(pod *corev1.Pod, attempt uint32) (*cri.PodSandboxConfig, error) {
	n := *k.node
	if text, err := os.ReadFile(cmp.Or(k.cfg.ResolvConf, "/etc/resolv.conf")); err == nil {
		n.Resolv = spec.ParseResolv(string(text))
	}
	return spec.Sandbox(pod, attempt, &n)
}

// Run registers the node and works until ctx ends or something cannot go on.
// Containers keep running after it.
func (k *Kubelet) Run(ctx context.Context) error {
	for _, dir := range []string{k.volumes.Root, k.node.LogRoot} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	v, err := k.cfg.Runtime.Version(ctx, "v1")
	if err != nil {
		return fmt.Errorf("the container runtime does not answer: %w", err)
	}
	k.runtime, k.version = v.RuntimeName, v.RuntimeVersion
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return k.events.Run(ctx) })
	g.Go(func() error { return k.keepNode(ctx) })
	g.Go(func() error { return k.keepLease(ctx) })
	g.Go(func() error { return k.logs.run(ctx) })
	g.Go(func() error { return k.keepPods(ctx) })
	err = g.Wait()
	k.refs.close()
	k.effects.Wait()
	return err
}

// keepPods follows the pods bound to this node and what the runtime says of them.
func (k *Kubelet) keepPods(ctx context.Context) error {
	pods := client.All[corev1.Pod]()
	pods.FieldSelector = "spec.nodeName=" + k.cfg.NodeName
	node := client.All[corev1.Node]()
	node.Name = k.cfg.NodeName
	view, stream, err := k.cfg.Client.Watch(ctx, pods, node, client.All[corev1.Service]())
	if err != nil {
		return err
	}
	defer stream.Close()
	if n := client.Get[corev1.Node](view, "", k.cfg.NodeName); n != nil {
		k.own.Store(n)
	}
	known, err := k.observeAll(ctx)
	if err != nil {
		return fmt.Errorf("the container runtime does not list its pods: %w", err)
	}
	k.adopt(ctx, view, known)
	k.effects.Go(func() { k.follow(ctx) })
	for {
		batch, _, err := stream.Next(ctx)
		if ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		for _, e := range batch {
			k.dispatch(ctx, e)
		}
	}
}

// adopt starts workers for all pods of the API, oldest first, and for those that
// only the runtime knows; then it sweeps what is left of pods that nobody knows.
func (k *Kubelet) adopt(ctx context.Context, view client.View, known map[types.UID]*observation) {
	var pods []*corev1.Pod
	for p := range client.List[corev1.Pod](view, "") {
		if p.Spec.NodeName == k.cfg.NodeName {
			pods = append(pods, p)
		}
	}
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	for _, p := range pods {
		k.start(ctx, p, known[p.UID])
		delete(known, p.UID)
	}
	for uid, o := range known {
		pod := lost(o)
		k.log.Info("ending a pod that the API does not know", "pod", pod.Namespace+"/"+pod.Name, "uid", uid)
		w := k.start(ctx, pod, o)
		w.left.Store(true)
		w.post(func(w *worker) { w.st.Gone = true })
	}
	k.sweep()
}

// lost stands in for a pod that only the runtime remembers.
func lost(o *observation) *corev1.Pod {
	grace := int64(30)
	for _, c := range o.containers {
		if g, err := strconv.ParseInt(c.Annotations[spec.AnnotationGrace], 10, 64); err == nil {
			grace = g
		}
	}
	sb := lifecycle.NewestSandbox(o.sandboxes)
	if sb == nil {
		sb = &cri.PodSandboxStatus{}
	}
	return spec.LostPod(sb, grace)
}

// sweep removes directories, logs and cgroups of pods that have no worker.
func (k *Kubelet) sweep() {
	dirs, _ := os.ReadDir(k.node.LogRoot)
	for _, d := range dirs { // namespace_name_uid
		if uid := d.Name()[strings.LastIndexByte(d.Name(), '_')+1:]; k.worker(types.UID(uid)) == nil {
			if err := os.RemoveAll(filepath.Join(k.node.LogRoot, d.Name())); err != nil {
				k.log.Warn("the logs of a pod that is gone could not be removed", "uid", uid, "err", err)
			}
		}
	}
	for _, uid := range k.volumes.Pods() {
		if k.worker(uid) == nil {
			if err := k.volumes.Teardown(uid); err != nil {
				k.log.Warn("volumes of a pod that is gone could not be removed", "uid", uid, "err", err)
			}
		}
	}
	for uid, path := range k.cgroups.Pods(k.cfg.CgroupRoot) {
		if k.worker(types.UID(uid)) == nil {
			if err := k.cgroups.Remove(path); err != nil {
				k.log.Warn("the cgroup of a pod that is gone could not be removed", "uid", uid, "err", err)
			}
		}
	}
}

func (k *Kubelet) dispatch(ctx context.Context, e client.Event) {
	switch e.Resource.Key() {
	case "nodes":
		n, _ := e.New.(*corev1.Node)
		k.own.Store(n)
		if n == nil {
			k.renewNode() // somebody deleted it, but it is here
		}
	case "pods":
		k.dispatchPod(ctx, e)
	}
}

func (k *Kubelet) dispatchPod(ctx context.Context, e client.Event) {
	if p, ok := e.New.(*corev1.Pod); ok {
		if w := k.worker(p.UID); w != nil {
			w.post(func(w *worker) { w.update(p) })
		} else if p.Spec.NodeName == k.cfg.NodeName {
			k.start(ctx, p, nil)
		}
		if old, ok := e.Old.(*corev1.Pod); ok && old.UID != p.UID {
			k.gone(old)
		}
	} else if old, ok := e.Old.(*corev1.Pod); ok && e.New == nil {
		k.gone(old)
	}
}

// renewNode has the node's object looked at now.
func (k *Kubelet) renewNode() {
	select {
	case k.relist <- struct{}{}:
	default:
	}
}

func (k *Kubelet) gone(p *corev1.Pod) {
	if w := k.worker(p.UID); w != nil {
		w.left.Store(true)
		w.post(func(w *worker) { w.update(p); w.st.Gone = true })
	}
}

func (k *Kubelet) worker(uid types.UID) *worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.workers[uid]
}

// all are the workers there are now.
func (k *Kubelet) all() []*worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.workers))
}

// follow hands the runtime's events to the workers. A stream that breaks is opened
// again, and then everybody looks anew.
func (k *Kubelet) follow(ctx context.Context) {
	for wait := time.Duration(0); ctx.Err() == nil; wait = min(wait+time.Second, 10*time.Second) {
		begun := time.Now()
		ch := make(chan *cri.ContainerEventResponse, 64)
		end := make(chan error, 1)
		k.effects.Go(func() {
			end <- k.cfg.Runtime.GetContainerEvents(ctx, ch, func(cri.RuntimeService_GetContainerEventsClient) { k.lookAll() })
		})
		err := k.hand(ch, end)
		if ctx.Err() != nil {
			return
		}
		k.log.Warn("the runtime's event stream ended; opening it again", "err", err)
		if time.Since(begun) > time.Minute {
			wait = 0
		}
		sleep(ctx, wait)
	}
}

// lookAll makes every worker ask the runtime anew.
func (k *Kubelet) lookAll() {
	for _, w := range k.all() {
		w.post((*worker).look)
	}
}

func (k *Kubelet) hand(ch chan *cri.ContainerEventResponse, end chan error) error {
	for {
		select {
		case err := <-end:
			return err
		case e := <-ch:
			if w := k.worker(types.UID(e.GetPodSandboxStatus().GetMetadata().GetUid())); w != nil {
				w.post((*worker).look)
			} else if e.GetPodSandboxStatus() == nil {
				k.lookAll() // an event that does not say whose it is
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
