package scheduler

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// resources is an amount of everything that a node has and a pod asks for: CPU
// in thousandths, the rest in units or bytes.
type resources struct {
	cpu, memory, storage int64
	// scalars holds extended resources and huge pages; nil for most pods.
	scalars map[corev1.ResourceName]int64
}

func amount(list corev1.ResourceList) resources {
	var r resources
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			r.cpu = q.MilliValue()
		case corev1.ResourceMemory:
			r.memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.storage = q.Value()
		case corev1.ResourcePods:
		default:
			if r.scalars == nil {
				r.scalars = map[corev1.ResourceName]int64{}
			}
			r.scalars[name] = q.Value()
		}
	}
	return r
}

// add adds sign times o.
func (r *resources) add(o *resources, sign int64) {
	r.cpu += sign * o.cpu
	r.memory += sign * o.memory
	r.storage += sign * o.storage
	if len(o.scalars) == 0 {
		return
	}
	if r.scalars == nil {
		r.scalars = map[corev1.ResourceName]int64{}
	}
	for name, n := range o.scalars {
		r.scalars[name] += sign * n
	}
}

func (r resources) clone() resources {
	r.scalars = maps.Clone(r.scalars)
	return r
}

// What a container that asks for nothing is taken to use when nodes are
// compared, so that such pods spread too.
const (
	assumedCPU    = 100               // thousandths
	assumedMemory = 200 * 1024 * 1024 // bytes
)

// asked is what a pod asks for: the larger of its init containers' and its
// containers' needs, sidecars in both, and the overhead of its runtime.
func asked(p *corev1.Pod) resources {
	return amount(resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{UseStatusResources: true}))
}

// weighed is asked with the assumptions above.
func weighed(p *corev1.Pod) (cpu, memory int64) {
	list := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{
		UseStatusResources: true,
		NonMissingContainerRequests: corev1.ResourceList{
			corev1.ResourceCPU:    *resource.NewMilliQuantity(assumedCPU, resource.DecimalSI),
			corev1.ResourceMemory: *resource.NewQuantity(assumedMemory, resource.BinarySI),
		},
	})
	return list.Cpu().MilliValue(), list.Memory().Value()
}
