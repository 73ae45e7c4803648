package scheduler

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"

	"proa/client"
)

// podInfo is a pod with what every decision asks of it worked out once.
type podInfo struct {
	pod      *corev1.Pod
	key      client.Key
	labels   labels.Set
	priority int32
	node     string // where it runs or is assumed to; "" while pending
	assumed  bool   // bound by us, not yet seen bound

	need              resources
	weighCPU, weighMB int64 // what scores count, bytes for memory
	ports             []hostPort
	claims            []client.Key // persistent volume claims
	affinity          *podAffinity // nil for most
}

// hostPort is a port of the node that a container takes.
type hostPort struct {
	protocol corev1.Protocol
	port     int32
	ip       netip.Addr // zero: all addresses
}

func newPodInfo(p *corev1.Pod) *podInfo {
	i := &podInfo{
		pod: p, key: client.KeyOf(p), labels: p.Labels, node: p.Spec.NodeName,
		priority: corev1helpers.PodPriority(p),
		need:     asked(p), ports: hostPorts(p), claims: claimsOf(p), affinity: affinityOf(p),
	}
	i.weighCPU, i.weighMB = weighed(p)
	return i
}

func hostPorts(p *corev1.Pod) []hostPort {
	var out []hostPort
	add := func(c *corev1.Container) {
		for _, port := range c.Ports {
			if port.HostPort == 0 {
				continue
			}
			h := hostPort{protocol: port.Protocol, port: port.HostPort}
			if h.protocol == "" {
				h.protocol = corev1.ProtocolTCP
			}
			if a, err := netip.ParseAddr(port.HostIP); err == nil && !a.IsUnspecified() {
				h.ip = a
			}
			out = append(out, h)
		}
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range p.Spec.Containers {
		add(&p.Spec.Containers[i])
	}
	return out
}

// clashes tells whether two ports cannot be taken on one node.
func (h hostPort) clashes(o hostPort) bool {
	return h.port == o.port && h.protocol == o.protocol && (h.ip == o.ip || !h.ip.IsValid() || !o.ip.IsValid())
}

// claimsOf lists the claims that a pod uses; that of an ephemeral volume is
// named after the pod and the volume.
func claimsOf(p *corev1.Pod) []client.Key {
	var out []client.Key
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			out = append(out, client.Key{Namespace: p.Namespace, Name: v.PersistentVolumeClaim.ClaimName})
		case v.Ephemeral != nil:
			out = append(out, client.Key{Namespace: p.Namespace, Name: p.Name + "-" + v.Name})
		}
	}
	return out
}

// done tells a pod that holds nothing any more.
func done(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}
