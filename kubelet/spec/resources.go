package spec

import (
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CPU shares and quota in the kernel's terms: 1024 shares are one CPU, and the
// period is 100 ms.
const (
	sharesPerCPU = 1024
	minShares    = 2
	maxShares    = 262144
	Period       = 100_000 // µs
	minQuota     = 1_000   // µs
)

// Shares converts a CPU request.
func Shares(milli int64) int64 {
	if milli <= 0 {
		return minShares
	}
	return min(max(milli*sharesPerCPU/1000, minShares), maxShares)
}

// Quota converts a CPU limit into microseconds a Period; 0 is no limit.
func Quota(milli int64) int64 {
	if milli <= 0 {
		return 0
	}
	return max(milli*Period/1000, minQuota)
}

// QOS is the pod's class, as the API has it or by the rules of the class.
func QOS(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	any, guaranteed := false, true
	each := func(r *corev1.ResourceRequirements) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			req, lim := r.Requests[name], r.Limits[name]
			any = any || !req.IsZero() || !lim.IsZero()
			guaranteed = guaranteed && !lim.IsZero() && req.Cmp(lim) == 0
		}
	}
	if pod.Spec.Resources != nil {
		each(pod.Spec.Resources)
	} else {
		for i := range pod.Spec.InitContainers {
			each(&pod.Spec.InitContainers[i].Resources)
		}
		for i := range pod.Spec.Containers {
			each(&pod.Spec.Containers[i].Resources)
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// CgroupParent is the pod's cgroup below the hierarchy's root.
func CgroupParent(pod *corev1.Pod, n *Node) string {
	class := map[corev1.PodQOSClass]string{corev1.PodQOSBurstable: "burstable", corev1.PodQOSBestEffort: "besteffort"}[QOS(pod)]
	return path.Join("/", n.CgroupRoot, class, "pod"+string(pod.UID))
}

// PodResources is what the pod's cgroup gets: requests as shares; a limit only
// where every container has one.
func PodResources(pod *corev1.Pod) *cri.LinuxContainerResources {
	req := helpers.PodRequests(pod, helpers.PodResourcesOptions{})
	out := &cri.LinuxContainerResources{CpuPeriod: Period, CpuShares: Shares(req.Cpu().MilliValue())}
	lim := helpers.PodLimits(pod, helpers.PodResourcesOptions{})
	if allLimited(pod, corev1.ResourceCPU) {
		out.CpuQuota = Quota(lim.Cpu().MilliValue())
	}
	if allLimited(pod, corev1.ResourceMemory) {
		out.MemoryLimitInBytes = lim.Memory().Value()
	}
	return out
}

func allLimited(pod *corev1.Pod, name corev1.ResourceName) bool {
	if r := pod.Spec.Resources; r != nil {
		if q := r.Limits[name]; !q.IsZero() {
			return true
		}
	}
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		if q := c.Resources.Limits[name]; q.IsZero() {
			return false
		}
	}
	return true
}

// ContainerResources is what one container's cgroup gets.
func ContainerResources(pod *corev1.Pod, c *corev1.Container, n *Node) *cri.LinuxContainerResources {
	cpu := c.Resources.Requests[corev1.ResourceCPU]
	if _, ok := c.Resources.Requests[corev1.ResourceCPU]; !ok {
		cpu = c.Resources.Limits[corev1.ResourceCPU]
	}
	limit := c.Resources.Limits[corev1.ResourceCPU]
	return &cri.LinuxContainerResources{
		CpuPeriod: Period, CpuShares: Shares(cpu.MilliValue()), CpuQuota: Quota(limit.MilliValue()),
		MemoryLimitInBytes: valueOf(c.Resources.Limits[corev1.ResourceMemory]),
		OomScoreAdj:        OOMScore(pod, c, valueOf(n.Capacity[corev1.ResourceMemory])),
	}
}

func valueOf(q resource.Quantity) int64 { return q.Value() }

// OOMScore is the oom_score_adj of a container's processes: the more memory it
// asked for, the later it is killed (Node-pressure Eviction, "Node out of memory
// behavior").
func OOMScore(pod *corev1.Pod, c *corev1.Container, capacity int64) int64 {
	critical := pod.Spec.Priority != nil && *pod.Spec.Priority >= 2_000_000_000
	switch QOS(pod) {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		if !critical {
			return 1000
		}
	}
	if critical {
		return -997
	}
	request := valueOf(c.Resources.Requests[corev1.ResourceMemory])
	if capacity == 0 {
		return 999
	}
	return min(max(1000-1000*request/capacity, 3), 999)
}
