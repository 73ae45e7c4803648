package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-helpers/nodedeclaredfeatures"
	resourcehelper "k8s.io/component-helpers/resource"
)

// placedUpdate returns the pod that a request changes, if its spec changes and it
// is on a node, with that node.
func placedUpdate(r *Request, subresources ...string) (pod, old *corev1.Pod, node func() (*corev1.Node, error)) {
	pod, ok := r.Object.(*corev1.Pod)
	old, was := r.Old.(*corev1.Pod)
	if r.Op != Update || !ok || !was || pod.Spec.NodeName == "" || pod.Generation == old.Generation {
		return nil, nil, nil
	}
	for _, s := range subresources {
		if r.Is("pods", s) {
			return pod, old, func() (*corev1.Node, error) {
				if n := lookup[*corev1.Node](r.World, "nodes", "", pod.Spec.NodeName); n != nil {
					return n, nil
				}
				return nil, r.Forbidden(fmt.Errorf("node %q not found", pod.Spec.NodeName))
			}
		}
	}
	return nil, nil, nil
}

// release is the version whose rules about features of nodes hold here.
var release = sync.OnceValue(func() *version.Version { return version.MajorMinor(1, 37) })

// declaredFeatures refuses a change of a pod that its node says it cannot make
// (KEP-5328).
func declaredFeatures() Plugin {
	return Plugin{Name: "NodeDeclaredFeatureValidator", Validate: func(_ context.Context, r *Request) error {
		pod, old, node := placedUpdate(r, "", "resize")
		if pod == nil {
			return nil
		}
		features := nodedeclaredfeatures.DefaultFramework
		was, is := &nodedeclaredfeatures.PodInfo{Spec: &old.Spec, Status: &old.Status}, &nodedeclaredfeatures.PodInfo{Spec: &pod.Spec, Status: &pod.Status}
		wanted, err := features.InferForPodUpdate(was, is, release())
		if err != nil {
			return r.Forbidden(fmt.Errorf("failed to infer pod capability requirements: %w", err))
		}
		if wanted.IsEmpty() {
			return nil
		}
		on, err := node()
		if err != nil {
			return err
		}
		match, err := features.MatchNode(wanted, on)
		if err != nil {
			return r.Forbidden(fmt.Errorf("failed to match pod requirements against node %q: %w", on.Name, err))
		}
		if !match.IsMatch {
			return r.Forbidden(fmt.Errorf("pod update requires features %s which are not available on node %q", strings.Join(match.UnsatisfiedRequirements, ", "), on.Name))
		}
		return nil
	}}
}

// Causes of a refused resize.
const (
	causePlatform = metav1.CauseType("UnsupportedPlatform")
	causeCapacity = metav1.CauseType("NodeCapacity")
)

// podResize refuses to let a pod grow beyond what its node has (KEP-1287).
func podResize() Plugin {
	return Plugin{Name: "PodResizeValidator", Validate: func(_ context.Context, r *Request) error {
		pod, _, node := placedUpdate(r, "resize")
		if pod == nil {
			return nil
		}
		on, err := node()
		if err != nil {
			return err
		}
		if os, ok := on.Labels[corev1.LabelOSStable]; ok && os != "linux" {
			return r.refuse(causePlatform, fmt.Errorf("pod resize is only supported on linux nodes, node %q is %q", on.Name, os))
		}
		if over := beyond(pod, on.Status.Allocatable); over != "" {
			return r.refuse(causeCapacity, errors.New("node didn't have enough allocatable resources: "+over))
		}
		return nil
	}}
}

// refuse is Forbidden with a cause that programs can tell.
func (r *Request) refuse(cause metav1.CauseType, err error) error {
	refused := r.Forbidden(err)
	var s *apierrors.StatusError
	if errors.As(refused, &s) {
		s.ErrStatus.Details.Causes = append(s.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause})
	}
	return refused
}

// beyond says of what a pod requests more than there is.
func beyond(pod *corev1.Pod, there corev1.ResourceList) string {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	var over []string
	if cpu := requests[corev1.ResourceCPU]; cpu.Cmp(*there.Cpu()) > 0 {
		over = append(over, fmt.Sprintf("cpu, requested: %d, allocatable: %d", cpu.MilliValue(), there.Cpu().MilliValue()))
	}
	if memory := requests[corev1.ResourceMemory]; memory.Cmp(*there.Memory()) > 0 {
		over = append(over, fmt.Sprintf("memory, requested: %d, allocatable: %d", memory.Value(), there.Memory().Value()))
	}
	return strings.Join(over, "; ")
}
