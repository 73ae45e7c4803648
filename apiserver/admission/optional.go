package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/utils/ptr"
)

// claimResize lets a claim grow only where its class says that it can.
func claimResize() Plugin {
	return Plugin{Name: "PersistentVolumeClaimResize", Validate: func(_ context.Context, r *Request) error {
		if r.Op != Update || !r.Is("persistentvolumeclaims") {
			return nil
		}
		was, is := r.Old.(*corev1.PersistentVolumeClaim), r.Object.(*corev1.PersistentVolumeClaim)
		old, size := was.Spec.Resources.Requests[corev1.ResourceStorage], is.Spec.Resources.Requests[corev1.ResourceStorage]
		if size.Cmp(old) <= 0 {
			return nil
		}
		if was.Status.Phase != corev1.ClaimBound {
			return r.Forbidden(errors.New("Only bound persistent volume claims can be expanded")) //nolint:staticcheck // upstream's words
		}
		name, annotated := is.Annotations[corev1.BetaStorageClassAnnotation]
		if !annotated {
			name = ptr.Deref(is.Spec.StorageClassName, "")
		}
		class := lookup[*storagev1.StorageClass](r.World, "storage.k8s.io/storageclasses", "", name)
		if name == "" || class == nil || !ptr.Deref(class.AllowVolumeExpansion, false) {
			return r.Forbidden(errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
		}
		return nil
	}}
}

// topologyLabels tells a pod by its labels in which zone and region its node is.
func topologyLabels() Plugin {
	return Plugin{Name: "PodTopologyLabels", Mutate: func(_ context.Context, r *Request) error {
		if r.Op != Create {
			return nil
		}
		node := ""
		switch obj := r.Object.(type) {
		case *corev1.Binding:
			node = obj.Target.Name
		case *corev1.Pod:
			node = obj.Spec.NodeName
		}
		if node == "" || r.Resource.Key() != "pods" {
			return nil
		}
		on := lookup[*corev1.Node](r.World, "nodes", "", node)
		if on == nil {
			return nil
		}
		labels := r.Object.GetLabels()
		for _, k := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
			if v, ok := on.Labels[k]; ok {
				if labels == nil {
					labels = map[string]string{}
				}
				labels[k] = v
			}
		}
		r.Object.SetLabels(labels)
		return nil
	}}
}

// alwaysPull has every image pulled, so that a pod must hold the credentials for
// it. It is off unless asked for.
func alwaysPull() Plugin {
	return Plugin{Name: "AlwaysPullImages", Mutate: func(_ context.Context, r *Request) error {
		pod, ok := r.Object.(*corev1.Pod)
		if !ok || r.Op != Create && r.Op != Update || r.Subresource != "" && r.Subresource != "ephemeralcontainers" {
			return nil
		}
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				list[i].ImagePullPolicy = corev1.PullAlways
			}
		}
		for i := range pod.Spec.EphemeralContainers {
			pod.Spec.EphemeralContainers[i].ImagePullPolicy = corev1.PullAlways
		}
		return nil
	}}
}

// denyExternalIPs keeps Services from claiming addresses that are not the
// cluster's. It is off unless asked for.
func denyExternalIPs() Plugin {
	return Plugin{Name: "DenyServiceExternalIPs", Validate: func(_ context.Context, r *Request) error {
		svc, ok := r.Object.(*corev1.Service)
		if !ok || r.Subresource != "" {
			return nil
		}
		var before []string
		if old, ok := r.Old.(*corev1.Service); ok {
			before = old.Spec.ExternalIPs
		}
		for _, ip := range svc.Spec.ExternalIPs {
			if !slices.Contains(before, ip) {
				return r.Forbidden(errors.New("Use of external IPs is denied by admission control")) //nolint:staticcheck // upstream's words
			}
		}
		return nil
	}}
}

// choose takes plugins out of the chain that are on by default, and those that
// are not unless they are asked for. An unknown name is an error.
func choose(all Chain, off map[string]bool, enable, disable []string) (Chain, error) {
	for _, name := range slices.Concat(enable, disable) {
		if !slices.ContainsFunc(all, func(p Plugin) bool { return p.Name == name }) {
			return nil, fmt.Errorf("admission plugin %q is unknown", name)
		}
		if slices.Contains(enable, name) && slices.Contains(disable, name) {
			return nil, fmt.Errorf("admission plugin %q is both enabled and disabled", name)
		}
	}
	chosen := slices.DeleteFunc(slices.Clone(all), func(p Plugin) bool {
		return slices.Contains(disable, p.Name) || off[p.Name] && !slices.Contains(enable, p.Name)
	})
	for _, p := range chosen {
		if p.broken != nil {
			return nil, fmt.Errorf("admission plugin %q: %w", p.Name, p.broken)
		}
	}
	return chosen, nil
}
