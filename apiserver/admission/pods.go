package admission

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"
)

// priority turns a pod's class into a number, and keeps classes at one default.
func priority() Plugin {
	return Plugin{
		Name: "Priority",
		Mutate: func(_ context.Context, r *Request) error {
			if r.Op != Create || !r.Is("pods") {
				return nil
			}
			return setPriority(r, r.Object.(*corev1.Pod))
		},
		Validate: func(_ context.Context, r *Request) error {
			if (r.Op != Create && r.Op != Update) || !r.Is("scheduling.k8s.io/priorityclasses") {
				return nil
			}
			pc := r.Object.(*schedulingv1.PriorityClass)
			if def := defaultClass(r); pc.GlobalDefault && def != nil && def.Name != pc.Name {
				return r.Forbidden(fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", def.Name))
			}
			return nil
		},
	}
}

func setPriority(r *Request, pod *corev1.Pod) error {
	value, policy := int32(0), corev1.PreemptLowerPriority
	pc := defaultClass(r)
	if name := pod.Spec.PriorityClassName; name != "" {
		pc = lookup[*schedulingv1.PriorityClass](r.World, "scheduling.k8s.io/priorityclasses", "", name)
		if pc == nil {
			return r.Forbidden(fmt.Errorf("no PriorityClass with name %v was found", name))
		}
	}
	if pc != nil {
		value, policy = pc.Value, ptr.Deref(pc.PreemptionPolicy, policy)
		pod.Spec.PriorityClassName = pc.Name
	}
	if p := pod.Spec.Priority; p != nil && *p != value {
		return r.Forbidden(fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *p, value))
	}
	if p := pod.Spec.PreemptionPolicy; p != nil && *p != policy {
		return r.Forbidden(fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *p, policy))
	}
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = &value, &policy
	return nil
}

// defaultClass is the class of pods that name none; of several, the lowest.
func defaultClass(r *Request) (def *schedulingv1.PriorityClass) {
	for _, pc := range every[*schedulingv1.PriorityClass](r.World, "scheduling.k8s.io/priorityclasses", "") {
		if pc.GlobalDefault && (def == nil || pc.Value < def.Value) {
			def = pc
		}
	}
	return def
}

// evictAfter is how long a pod stays on a node that is not ready, in seconds.
const evictAfter = 300

// defaultTolerationSeconds lets a pod stay a while on a node that is lost.
func defaultTolerationSeconds() Plugin {
	return Plugin{Name: "DefaultTolerationSeconds", Mutate: func(_ context.Context, r *Request) error {
		if (r.Op != Create && r.Op != Update) || !r.Is("pods") {
			return nil
		}
		pod := r.Object.(*corev1.Pod)
		for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
			if !tolerates(pod, key) {
				pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
					Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](evictAfter),
				})
			}
		}
		return nil
	}}
}

func tolerates(pod *corev1.Pod, key string) bool {
	for _, t := range pod.Spec.Tolerations {
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}

// taintNodes keeps pods off a new node until it says that it is ready.
func taintNodes(on bool) Plugin {
	return Plugin{Name: "TaintNodesByCondition", Mutate: func(_ context.Context, r *Request) error {
		if !on || r.Op != Create || !r.Is("nodes") {
			return nil
		}
		node := r.Object.(*corev1.Node)
		want := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
		for _, t := range node.Spec.Taints {
			if t.MatchTaint(&want) {
				return nil
			}
		}
		node.Spec.Taints = append(node.Spec.Taints, want)
		return nil
	}}
}

// runtimeClass gives a pod the overhead and the nodes of its runtime class.
func runtimeClass() Plugin {
	return Plugin{
		Name: "RuntimeClass",
		Mutate: func(_ context.Context, r *Request) error {
			if r.Op != Create || !r.Is("pods") {
				return nil
			}
			pod := r.Object.(*corev1.Pod)
			rc, err := classOf(r, pod)
			if err != nil || rc == nil {
				return err
			}
			if rc.Overhead != nil {
				if pod.Spec.Overhead != nil && !equality.Semantic.DeepEqual(pod.Spec.Overhead, rc.Overhead.PodFixed) {
					return r.Forbidden(fmt.Errorf("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
				}
				pod.Spec.Overhead = rc.Overhead.PodFixed.DeepCopy()
			}
			return scheduleByClass(r, pod, rc)
		},
		Validate: func(_ context.Context, r *Request) error {
			if r.Op != Create || !r.Is("pods") {
				return nil
			}
			pod := r.Object.(*corev1.Pod)
			rc, err := classOf(r, pod)
			if err == nil && len(pod.Spec.Overhead) > 0 && (rc == nil || rc.Overhead == nil) {
				return r.Forbidden(fmt.Errorf("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
			}
			return err
		},
	}
}

func classOf(r *Request, pod *corev1.Pod) (*nodev1.RuntimeClass, error) {
	name := pod.Spec.RuntimeClassName
	if name == nil || *name == "" {
		return nil, nil
	}
	rc := lookup[*nodev1.RuntimeClass](r.World, "node.k8s.io/runtimeclasses", "", *name)
	if rc == nil {
		return nil, r.Forbidden(fmt.Errorf("pod rejected: RuntimeClass %q not found", *name))
	}
	return rc, nil
}

func scheduleByClass(r *Request, pod *corev1.Pod, rc *nodev1.RuntimeClass) error {
	if rc.Scheduling == nil {
		return nil
	}
	for k, v := range rc.Scheduling.NodeSelector {
		if have, set := pod.Spec.NodeSelector[k]; set && have != v {
			return r.Forbidden(fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", k, v, k, have))
		}
	}
	if len(rc.Scheduling.NodeSelector) > 0 {
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		maps.Copy(pod.Spec.NodeSelector, rc.Scheduling.NodeSelector)
	}
	for _, t := range rc.Scheduling.Tolerations {
		found := false
		for _, have := range pod.Spec.Tolerations {
			found = found || equality.Semantic.DeepEqual(have, t)
		}
		if !found {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, t)
		}
	}
	return nil
}
