package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/auth"
	"proa/client"
	"proa/control"
	"proa/dns"
	"proa/doctor"
	"proa/image"
	"proa/kubelet"
	"proa/network"
	"proa/proxy"
	"proa/runtime"
)

// node is this machine's part of the cluster.
type node struct {
	images  *image.Store
	network *network.Network
	runtime *runtime.Runtime
	proxy   *proxy.Proxy
	kubelet *kubelet.Kubelet
}

// runtimePart names the runtime among the parts: pods are stopped after all that
// leans on it is.
const runtimePart = "container runtime"

// ResolvConf is what pods and the cluster's resolver take outside names from.
const ResolvConf = "/etc/resolv.conf"

// startNode puts the node together from the image store up to the kubelet.
func (c *Cluster) startNode(ctx context.Context) error {
	if c.cfg.NoNode {
		return nil
	}
	n := &node{}
	for _, step := range []func(context.Context, *node) error{c.openRuntime, c.startProxy, c.startDNS, c.startLocalVolumes, c.startKubelet, c.startKubeletPort} {
		if err := step(ctx, n); err != nil {
			return err
		}
	}
	c.node.Store(n)
	return nil
}

func (c *Cluster) openRuntime(_ context.Context, n *node) (err error) {
	if n.images, err = image.Open(c.imageDir(), c.cfg.Log); err != nil {
		return err
	}
	c.parts.Closer("image store", n.images.Close)
	n.network, err = network.New(network.Config{
		NodeName: c.cfg.NodeName, PodCIDR: c.cfg.nodePodCIDR(), ClusterCIDR: c.cfg.PodCIDR, ServiceCIDR: c.cfg.ServiceCIDR,
		StateDir: filepath.Join(c.cfg.RunDir, "network"), Log: c.cfg.Log})
	if err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	c.parts.Go("pod network", n.network.Run)
	n.runtime, err = runtime.New(runtime.Config{
		Root: filepath.Join(c.cfg.DataDir, "runtime"), Run: filepath.Join(c.cfg.RunDir, "runtime"),
		Images: n.images, Network: n.network, CgroupRoot: control.CgroupRoot(c.cfg.DataDir), Log: c.cfg.Log})
	if err != nil {
		return fmt.Errorf("container runtime: %w", err)
	}
	c.parts.Closer(runtimePart, func() error { return n.runtime.Close(context.Background()) })
	return nil
}

func (c *Cluster) startProxy(_ context.Context, n *node) error {
	n.proxy = proxy.New(proxy.Config{Client: c.Client("system:kube-proxy"), NodeName: c.cfg.NodeName,
		NodeIPs: c.addresses, ClusterCIDR: c.cfg.PodCIDR, ServiceCIDR: c.cfg.ServiceCIDR,
		OwnServiceIPs: []netip.Addr{c.dnsAddress()}, Log: c.cfg.Log})
	c.parts.Go("Service proxy", n.proxy.Run)
	return nil
}

func (c *Cluster) startDNS(_ context.Context, n *node) error {
	if err := n.network.EnsureDNSAddress(c.dnsAddress()); err != nil {
		return fmt.Errorf("cluster DNS address: %w", err)
	}
	s, err := dns.New(dns.Config{Client: c.Client("system:kube-dns"), Domain: c.cfg.ClusterDomain, ResolvConf: ResolvConf, Metrics: c.api.Metrics(),
		Listen: []netip.AddrPort{netip.AddrPortFrom(c.dnsAddress(), 53)}, Log: c.cfg.Log})
	if err != nil {
		return fmt.Errorf("cluster DNS: %w", err)
	}
	c.parts.Go("cluster DNS", s.Run)
	return nil
}

func (c *Cluster) startKubelet(_ context.Context, n *node) (err error) {
	identity := auth.User{Name: auth.NodeUserPrefix + c.cfg.NodeName, Groups: []string{auth.GroupNodes, auth.GroupAuthenticated}}
	n.kubelet, err = kubelet.New(kubelet.Config{
		NodeName: c.cfg.NodeName, NodeIPs: c.addresses, Client: c.api.Client(identity),
		Runtime: n.runtime, Images: image.NewService(n.images), Streams: n.runtime.Streams(),
		Root: filepath.Join(c.cfg.DataDir, "kubelet"), Run: filepath.Join(c.cfg.RunDir, "kubelet"),
		CgroupRoot: control.CgroupRoot(c.cfg.DataDir), ClusterDNS: []netip.Addr{c.dnsAddress()}, ClusterDomain: c.cfg.ClusterDomain,
		ResolvConf: ResolvConf, PodCIDR: c.cfg.nodePodCIDR(), MaxPods: 110, Port: doctor.KubeletPort,
		BeforeStop: n.drained, Log: c.cfg.Log})
	if err != nil {
		return fmt.Errorf("kubelet: %w", err)
	}
	c.parts.Go("kubelet", n.kubelet.Run)
	return nil
}

// drained waits until no Service sends the pod new connections.
func (n *node) drained(ctx context.Context, pod *corev1.Pod) {
	var addrs []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			addrs = append(addrs, a)
		}
	}
	if pod.Spec.HostNetwork || len(addrs) == 0 {
		return
	}
	_ = n.proxy.WaitGone(ctx, addrs) // its end is a reason to go on, whichever it was
}

// nodeHandler is how the API reaches the server of a node's kubelet.
func (c *Cluster) nodeHandler(name string) (http.Handler, error) {
	n := c.node.Load()
	if n == nil || name != c.cfg.NodeName {
		return nil, fmt.Errorf("no connection to node %q", name)
	}
	return n.kubelet.Handler(), nil
}

func (c *Cluster) imageDir() string { return filepath.Join(c.cfg.DataDir, "images") }

// stopPods ends every container on this node, each with its pod's grace; the
// objects stay, so that the next start brings them back. The kubelet must not
// run any more.
func (c *Cluster) stopPods(ctx context.Context) error {
	n := c.node.Load()
	if n == nil {
		return nil
	}
	sandboxes, err := n.runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return err
	}
	v := c.Client("proa").View()
	var group errgroup.Group
	for _, sb := range sandboxes {
		grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
		if pod := client.Get[corev1.Pod](v, sb.Metadata.Namespace, sb.Metadata.Name); pod != nil && pod.Spec.TerminationGracePeriodSeconds != nil {
			grace = *pod.Spec.TerminationGracePeriodSeconds
		}
		group.Go(func() error { return n.stopPod(ctx, sb.Id, grace) })
	}
	return group.Wait()
}

func (n *node) stopPod(ctx context.Context, sandbox string, grace int64) error {
	containers, err := n.runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{PodSandboxId: sandbox})
	if err != nil {
		return err
	}
	var group errgroup.Group
	for _, ctr := range containers {
		group.Go(func() error { return n.runtime.StopContainer(ctx, ctr.Id, grace) })
	}
	return errors.Join(group.Wait(), n.runtime.StopPodSandbox(ctx, sandbox))
}
