package endpoints

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// unsliced are the Service's annotations that its endpoints do not get.
var unsliced = []string{
	corev1.LastAppliedConfigAnnotation,
	corev1.EndpointsLastChangeTriggerTime,
	corev1.EndpointsOverCapacity,
	"control-plane.alpha.kubernetes.io/leader",
}

// own labels of endpoints, which a Service's labels of that name do not change.
var reserved = []string{discoveryv1.LabelServiceName, discoveryv1.LabelManagedBy, corev1.IsHeadlessService}

// copied is m without some keys.
func copied(m map[string]string, without []string) map[string]string {
	out := maps.Clone(m)
	for _, k := range without {
		delete(out, k)
	}
	return out
}

// sliceLabels are the Service's labels and those that slices are known by.
func sliceLabels(svc *corev1.Service) map[string]string {
	l := copied(svc.Labels, reserved)
	if l == nil {
		l = map[string]string{}
	}
	l[discoveryv1.LabelServiceName], l[discoveryv1.LabelManagedBy] = svc.Name, manager
	if headless(svc) {
		l[corev1.IsHeadlessService] = ""
	}
	return l
}

func headless(svc *corev1.Service) bool { return svc.Spec.ClusterIP == corev1.ClusterIPNone }
