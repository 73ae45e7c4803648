package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"proa/store"
)

const (
	defaultAccount  = "default"
	accessVolume    = "kube-api-access-"
	accessMountPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	rootCAConfigMap = "kube-root-ca.crt"
	// tokenSeconds is an hour and seven seconds: the odd rest is by which
	// Kubernetes tells the tokens that it asked for itself.
	tokenSeconds = 60*60 + 7
)

// serviceAccount gives a pod the identity it runs as, and the volume by which its
// containers prove it.
func serviceAccount(follow func(...store.Scope) (store.Snapshot, store.Watcher)) Plugin {
	return Plugin{Name: "ServiceAccount", Mutate: func(ctx context.Context, r *Request) error {
		if r.Op != Create || !r.Is("pods") {
			return nil
		}
		pod := r.Object.(*corev1.Pod)
		if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
			return admitMirror(r, pod)
		}
		if pod.Spec.ServiceAccountName == "" {
			pod.Spec.ServiceAccountName = defaultAccount
		}
		pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
		sa := lookup[*corev1.ServiceAccount](r.World, "serviceaccounts", r.Namespace, pod.Spec.ServiceAccountName)
		if sa == nil && pod.Spec.ServiceAccountName == defaultAccount && follow != nil {
			sa = awaitDefault(ctx, r.Namespace, follow)
		}
		if sa == nil {
			return r.Forbidden(fmt.Errorf("error looking up service account %s/%s: serviceaccount %q not found",
				r.Namespace, pod.Spec.ServiceAccountName, pod.Spec.ServiceAccountName))
		}
		if wantsToken(sa, pod) {
			mountToken(pod)
		}
		if len(pod.Spec.ImagePullSecrets) == 0 {
			pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, sa.ImagePullSecrets...)
		}
		return nil
	}}
}

// accountWait is how long a pod that is created right after its namespace waits
// for the account that every namespace is given.
const accountWait = 2 * time.Second

func awaitDefault(ctx context.Context, namespace string, follow func(...store.Scope) (store.Snapshot, store.Watcher)) *corev1.ServiceAccount {
	ctx, cancel := context.WithTimeout(ctx, accountWait)
	defer cancel()
	scope := store.Scope{Resource: "serviceaccounts", Namespace: namespace, Name: defaultAccount}
	world, changes := follow(scope)
	defer changes.Close()
	if sa := lookup[*corev1.ServiceAccount](world, scope.Resource, namespace, defaultAccount); sa != nil {
		return sa
	}
	for {
		events, _, err := changes.Next(ctx)
		if err != nil {
			return nil
		}
		for _, e := range slices.Backward(events) {
			obj, err := e.Record.Object()
			if sa, ok := obj.(*corev1.ServiceAccount); ok && err == nil && e.Type != store.Deleted {
				return sa
			}
		}
	}
}

// admitMirror keeps a node's static pods from reaching into the API.
func admitMirror(r *Request, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return r.Forbidden(errors.New("a mirror pod may not reference service accounts"))
	}
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil || v.ConfigMap != nil || v.PersistentVolumeClaim != nil || v.Projected != nil {
			return r.Forbidden(fmt.Errorf("a mirror pod may not reference API objects, as its volume %s does", v.Name))
		}
	}
	return nil
}

func wantsToken(sa *corev1.ServiceAccount, pod *corev1.Pod) bool {
	if pod.Spec.AutomountServiceAccountToken != nil {
		return *pod.Spec.AutomountServiceAccountToken
	}
	return ptr.Deref(sa.AutomountServiceAccountToken, true)
}

// mountToken mounts the volume into every container that has nothing at its
// path. A pod that was made after another's example has the volume already.
func mountToken(pod *corev1.Pod) {
	name, mounted := accessVolume+rand.String(5), false
	there := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return strings.HasPrefix(v.Name, accessVolume) })
	if there >= 0 {
		name = pod.Spec.Volumes[there].Name
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if has(list[i].VolumeMounts, accessMountPath) {
				continue
			}
			mounted = true
			list[i].VolumeMounts = append(list[i].VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: accessMountPath})
		}
	}
	if mounted && there < 0 {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: accessSource()}})
	}
}

func has(mounts []corev1.VolumeMount, path string) bool {
	for _, m := range mounts {
		if m.MountPath == path {
			return true
		}
	}
	return false
}

// accessSource is the token, the CA that the API's certificate is checked with,
// and the pod's namespace.
func accessSource() *corev1.ProjectedVolumeSource {
	return &corev1.ProjectedVolumeSource{
		DefaultMode: ptr.To(corev1.ProjectedVolumeSourceDefaultMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](tokenSeconds)}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCAConfigMap},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}
}
