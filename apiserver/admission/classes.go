package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"

	"proa/api"
)

const (
	defaultStorageAnnotation     = "storageclass.kubernetes.io/is-default-class"
	defaultStorageAnnotationBeta = "storageclass.beta.kubernetes.io/is-default-class"
	ingressClassAnnotation       = "kubernetes.io/ingress.class"
)

// defaultStorageClass gives a claim that names no class the default one.
func defaultStorageClass() Plugin {
	return Plugin{Name: "DefaultStorageClass", Mutate: func(_ context.Context, r *Request) error {
		if r.Op != Create || !r.Is("persistentvolumeclaims") {
			return nil
		}
		claim := r.Object.(*corev1.PersistentVolumeClaim)
		if _, old := claim.Annotations[corev1.BetaStorageClassAnnotation]; old || claim.Spec.StorageClassName != nil {
			return nil
		}
		def := marked[*storagev1.StorageClass](r, "storage.k8s.io/storageclasses", defaultStorageAnnotation, defaultStorageAnnotationBeta)
		if def != nil {
			name := def.GetName()
			claim.Spec.StorageClassName = &name
		}
		return nil
	}}
}

// defaultIngressClass gives an ingress that names no class the default one.
func defaultIngressClass() Plugin {
	return Plugin{Name: "DefaultIngressClass", Mutate: func(_ context.Context, r *Request) error {
		if r.Op != Create || !r.Is("networking.k8s.io/ingresses") {
			return nil
		}
		ing := r.Object.(*networkingv1.Ingress)
		if _, old := ing.Annotations[ingressClassAnnotation]; old || ing.Spec.IngressClassName != nil {
			return nil
		}
		def := marked[*networkingv1.IngressClass](r, "networking.k8s.io/ingressclasses", networkingv1.AnnotationIsDefaultIngressClass)
		if def != nil {
			name := def.GetName()
			ing.Spec.IngressClassName = &name
		}
		return nil
	}}
}

// inUse are the finalizers that keep volumes and claims while they are used; the
// protection controllers take them away.
var inUse = map[string]string{
	"persistentvolumeclaims": "kubernetes.io/pvc-protection",
	"persistentvolumes":      "kubernetes.io/pv-protection",
}

// storageInUse has new volumes and claims held from their first moment.
func storageInUse() Plugin {
	return Plugin{Name: "StorageObjectInUseProtection", Mutate: func(_ context.Context, r *Request) error {
		f := inUse[r.Resource.Key()]
		if r.Op != Create || r.Subresource != "" || f == "" || slices.Contains(r.Object.GetFinalizers(), f) {
			return nil
		}
		r.Object.SetFinalizers(append(r.Object.GetFinalizers(), f))
		return nil
	}}
}

// marked finds the object that an annotation makes the default: of several the
// newest, and of those the first by name. It returns nil where there is none.
func marked[P api.Object](r *Request, resource string, annotations ...string) api.Object {
	var best api.Object
	for _, obj := range every[P](r.World, resource, "") {
		is := false
		for _, a := range annotations {
			is = is || obj.GetAnnotations()[a] == "true"
		}
		if is && (best == nil || best.GetCreationTimestamp().Time.Before(obj.GetCreationTimestamp().Time)) {
			best = obj
		}
	}
	return best
}
