package kubelet

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"proa/kubelet/lifecycle"
)

// admit judges a pod that is new to this node against the pods that are on it. A
// pod that was admitted before (it has a start time) stays admitted.
func (k *Kubelet) admit(pod *corev1.Pod) *lifecycle.Stop {
	if pod.Status.StartTime != nil || pod.DeletionTimestamp != nil {
		return nil
	}
	return judge(pod, k.others(pod), k.own.Load(), k.node.Allocatable)
}

// others are the pods on this node beside one that still need what they asked for.
// Those that the API has forgotten do not count, even while they are being ended:
// the scheduler has given their place to others already, whom it would be wrong to
// turn away for good.
func (k *Kubelet) others(pod *corev1.Pod) []*corev1.Pod {
	var out []*corev1.Pod
	for _, w := range k.all() {
		if w.left.Load() {
			continue
		}
		if s := w.seen.Load(); w.uid != pod.UID && s.pod.Status.Phase != corev1.PodSucceeded && s.pod.Status.Phase != corev1.PodFailed {
			out = append(out, s.pod)
		}
	}
	return out
}

// judge is the node's own check of what the scheduler should have seen to.
func judge(pod *corev1.Pod, others []*corev1.Pod, node *corev1.Node, allocatable corev1.ResourceList) *lifecycle.Stop {
	if pod.Spec.OS != nil && pod.Spec.OS.Name != corev1.Linux {
		return &lifecycle.Stop{Reason: "PodOSNotSupported", Message: "Failed to admit pod as the OS field doesn't match node OS"}
	}
	if node != nil {
		if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
			return &lifecycle.Stop{Reason: "NodeAffinity", Message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
		}
	}
	if port := portTaken(pod, others); port != "" {
		return &lifecycle.Stop{Reason: "NodePorts", Message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
	}
	return fits(pod, others, allocatable)
}

func portTaken(pod *corev1.Pod, others []*corev1.Pod) string {
	mine := hostPorts(pod)
	for _, o := range others {
		for _, p := range hostPorts(o) {
			if slices.ContainsFunc(mine, func(m corev1.ContainerPort) bool { return clash(m, p) }) {
				return fmt.Sprint(p.HostPort)
			}
		}
	}
	return ""
}

func hostPorts(pod *corev1.Pod) []corev1.ContainerPort {
	var out []corev1.ContainerPort
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.HostPort != 0 {
				out = append(out, p)
			}
		}
	}
	return out
}

func clash(a, b corev1.ContainerPort) bool {
	everywhere := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	return a.HostPort == b.HostPort && a.Protocol == b.Protocol && (a.HostIP == b.HostIP || everywhere(a.HostIP) || everywhere(b.HostIP))
}

// fits adds requests up, each resource on its own.
func fits(pod *corev1.Pod, others []*corev1.Pod, allocatable corev1.ResourceList) *lifecycle.Stop {
	if limit := allocatable.Pods().Value(); int64(len(others))+1 > limit {
		return outOf(corev1.ResourcePods, *resource.NewQuantity(1, resource.DecimalSI), *resource.NewQuantity(int64(len(others)), resource.DecimalSI), *allocatable.Pods())
	}
	want := helpers.PodRequests(pod, helpers.PodResourcesOptions{})
	used := corev1.ResourceList{}
	for _, o := range others {
		for name, q := range helpers.PodRequests(o, helpers.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	for _, name := range sortedNames(want) {
		sum, limit := used[name], allocatable[name]
		sum.Add(want[name])
		if q := want[name]; !q.IsZero() && sum.Cmp(limit) > 0 {
			return outOf(name, want[name], used[name], limit)
		}
	}
	return nil
}

func sortedNames(l corev1.ResourceList) []corev1.ResourceName {
	var out []corev1.ResourceName
	for n := range l {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

func outOf(name corev1.ResourceName, want, used, limit resource.Quantity) *lifecycle.Stop {
	return &lifecycle.Stop{
		Reason: "OutOf" + strings.ReplaceAll(string(name), "/", "_"),
		Message: fmt.Sprintf("Pod was rejected: Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
			name, plainAmount(name, want), plainAmount(name, used), plainAmount(name, limit)),
	}
}

// plainAmount is a number as these messages show it: CPU in thousandths.
func plainAmount(name corev1.ResourceName, q resource.Quantity) int64 {
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}
