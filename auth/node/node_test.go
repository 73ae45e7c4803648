package node

import (
	"context"
	"iter"
	"slices"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"proa/api"
	"proa/auth"
	"proa/client"
)

// world is a view of a few objects, with the rows' indexes.
type world []api.Object

func (w world) Revision() uint64 { return 1 }

func (w world) Get(r *api.Resource, namespace, name string) client.Object {
	for o := range w.List(r, namespace) {
		if o.GetName() == name {
			return o
		}
	}
	return nil
}

func (w world) List(r *api.Resource, namespace string) iter.Seq[client.Object] {
	return w.each(r, func(o api.Object) bool { return namespace == "" || o.GetNamespace() == namespace })
}

func (w world) Index(r *api.Resource, index, value string) iter.Seq[client.Object] {
	return w.each(r, func(o api.Object) bool { return slices.Contains(r.Indexes[index](o), value) })
}

func (w world) each(r *api.Resource, want func(api.Object) bool) iter.Seq[client.Object] {
	return func(yield func(client.Object) bool) {
		for _, o := range w {
			if api.Builtin().ByType(o) == r && want(o) && !yield(o) {
				return
			}
		}
	}
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func local(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }

// rich is a pod that refers to other objects in every way there is.
func rich() *corev1.Pod {
	env := func(secret, config string) corev1.Container {
		return corev1.Container{
			EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: local(secret + "-all")}},
				{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: local(config + "-all")}}},
			Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: local(secret)}}},
				{ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: local(config)}}}},
		}
	}
	volume := func(name string, s corev1.VolumeSource) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: s}
	}
	return &corev1.Pod{ObjectMeta: meta("shop", "rich"), Spec: corev1.PodSpec{
		NodeName: "n1", ServiceAccountName: "till", ImagePullSecrets: []corev1.LocalObjectReference{local("pull")},
		InitContainers: []corev1.Container{env("s-init", "c-init")}, Containers: []corev1.Container{env("s-main", "c-main")},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon(env("s-debug", "c-debug"))}},
		Volumes: []corev1.Volume{
			volume("a", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s-vol"}}),
			volume("b", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("c-vol")}}),
			volume("c", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{Secret: &corev1.SecretProjection{LocalObjectReference: local("s-proj")}}, {ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: local("c-proj")}}}}}),
			volume("d", corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{NodePublishSecretRef: ptr.To(local("s-csi"))}}),
			volume("e", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}),
			volume("tmp", corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}),
		},
		ResourceClaims: []corev1.PodResourceClaim{{ResourceClaimName: ptr.To("gpu")}},
	}, Status: corev1.PodStatus{ResourceClaimStatuses: []corev1.PodResourceClaimStatus{{ResourceClaimName: ptr.To("gpu-made")}}}}
}

func objects() world {
	mirror := &corev1.Pod{ObjectMeta: meta("shop", "mirror"), Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: "forged",
		ImagePullSecrets: []corev1.LocalObjectReference{local("forged")}}}
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	return world{
		rich(), mirror,
		&corev1.Pod{ObjectMeta: meta("shop", "other"), Spec: corev1.PodSpec{NodeName: "n2", ServiceAccountName: "far", ImagePullSecrets: []corev1.LocalObjectReference{local("far")}}},
		&corev1.PersistentVolumeClaim{ObjectMeta: meta("shop", "claim"), Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}},
		&corev1.PersistentVolume{ObjectMeta: meta("", "pv"), Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{Namespace: "shop", Name: "claim"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				NodeStageSecretRef: &corev1.SecretReference{Namespace: "vault", Name: "stage"}, ControllerExpandSecretRef: &corev1.SecretReference{Namespace: "vault", Name: "expand"}}}}},
		&corev1.PersistentVolume{ObjectMeta: meta("", "free")},
		&storagev1.VolumeAttachment{ObjectMeta: meta("", "va"), Spec: storagev1.VolumeAttachmentSpec{NodeName: "n1"}},
		&resourcev1.ResourceSlice{ObjectMeta: meta("", "slice"), Spec: resourcev1.ResourceSliceSpec{NodeName: ptr.To("n1")}},
		&certificatesv1.PodCertificateRequest{ObjectMeta: meta("shop", "pcr"), Spec: certificatesv1.PodCertificateRequestSpec{NodeName: "n1"}},
	}
}

// TestAuthorize asks for everything as node n1, and the allowed things again as
// node n2, which has no such pods.
func TestAuthorize(t *testing.T) {
	z := New(func() client.View { return objects() })
	allow, deny := func(line string) { t.Helper(); check(t, z, line, true) }, func(line string) { t.Helper(); check(t, z, line, false) }
	for _, s := range []string{"pull", "s-init", "s-init-all", "s-main", "s-main-all", "s-debug", "s-debug-all", "s-vol", "s-proj", "s-csi"} {
		allow("get /secrets shop " + s)
	}
	for _, c := range []string{"c-init", "c-init-all", "c-main", "c-debug", "c-vol", "c-proj"} {
		allow("watch /configmaps shop " + c)
	}
	for _, line := range []string{
		"get /secrets vault stage", "get /persistentvolumeclaims shop claim", "get /persistentvolumeclaims shop rich-tmp",
		"patch /persistentvolumeclaims/status shop claim", "get /persistentvolumes - pv", "get resource.k8s.io/resourceclaims shop gpu",
		"get resource.k8s.io/resourceclaims shop gpu-made", "get storage.k8s.io/volumeattachments - va",
		"get /serviceaccounts shop till", "create /serviceaccounts/token shop till", "update coordination.k8s.io/leases kube-node-lease n1",
		"patch storage.k8s.io/csinodes - n1", "get resource.k8s.io/resourceslices - slice", "get /nodes - n1", "get /pods shop rich",
		"list /pods - - spec.nodeName=n1", "deletecollection resource.k8s.io/resourceslices - - spec.nodeName=n1",
		"get certificates.k8s.io/podcertificaterequests shop pcr",
	} {
		allow(line)
	}
	for _, line := range []string{
		"get /secrets shop far", "get /secrets shop forged", "get /secrets other s-vol", "get /secrets vault expand", "list /secrets shop -",
		"update /secrets shop s-vol", "list /secrets - -", "list /configmaps shop -", "list /persistentvolumes - -", "get /persistentvolumes - free",
		"create /serviceaccounts/token shop far", "create /serviceaccounts/token shop forged", "create /serviceaccounts shop till", "list /serviceaccounts shop -",
		"get coordination.k8s.io/leases kube-system n1", "get coordination.k8s.io/leases kube-node-lease n2", "list coordination.k8s.io/leases kube-node-lease -",
		"get storage.k8s.io/csinodes - n2", "list resource.k8s.io/resourceslices - -", "get /nodes - n2", "list /nodes - -", "delete /nodes - n1",
		"list /pods - -", "list /pods - - spec.nodeName=n2", "list /pods - - spec.nodeName!=n1", "get /pods shop other", "update /pods shop rich",
		"get /pods/log shop rich", "get /endpoints/status shop x", "delete /services shop x", "list certificates.k8s.io/podcertificaterequests - -",
	} {
		deny(line)
	}
	for _, line := range []string{"list /services - -", "create /events shop -", "create certificates.k8s.io/certificatesigningrequests - -", "list storage.k8s.io/csidrivers - -"} {
		allow(line)
	}
}

// check reads VERB GROUP/RESOURCE[/SUBRESOURCE] NAMESPACE NAME [FIELDS].
func check(t *testing.T, z *Authorizer, line string, want bool) {
	t.Helper()
	w := strings.Fields(strings.ReplaceAll(line, " -", " \x01"))
	for i := range w {
		w[i] = strings.TrimPrefix(w[i], "\x01")
	}
	parts := strings.SplitN(w[1], "/", 3)
	a := auth.Attributes{User: auth.User{Name: "system:node:n1", Groups: []string{auth.GroupNodes}}, Verb: w[0], Group: parts[0], Resource: parts[1],
		Namespace: w[2], Name: w[3], ResourceRequest: true}
	if len(parts) == 3 {
		a.Subresource = parts[2]
	}
	if len(w) == 5 {
		a.FieldSelector = w[4]
	}
	d, why, err := z.Authorize(context.Background(), a)
	if err != nil || (d == auth.Allow) != want || d == auth.Deny {
		t.Errorf("%s: %v %q %v", line, d, why, err)
	}
	if a.Name == "" || !want || a.Group == "" && (a.Resource == "services" || a.Resource == "events") {
		return
	}
	a.User.Name = "system:node:n2"
	if d, _, _ := z.Authorize(context.Background(), a); d == auth.Allow {
		t.Errorf("%s: another node may, too", line)
	}
}

func TestOthersAreNoBusinessOfIts(t *testing.T) {
	z := New(func() client.View { return objects() })
	for _, u := range []auth.User{{Name: "ann"}, {Name: "system:node:n1"}, {Name: "ann", Groups: []string{auth.GroupNodes}}} {
		if d, _, err := z.Authorize(context.Background(), auth.Attributes{User: u, Verb: "list", Resource: "services", ResourceRequest: true}); d != auth.NoOpinion || err != nil {
			t.Errorf("%+v: %v %v", u, d, err)
		}
	}
}
