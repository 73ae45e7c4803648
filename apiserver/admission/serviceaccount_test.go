package admission

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// A copy of a pod (kubectl debug --copy-to) has the volume of the first one; a
// container that was added to it uses the same.
func TestTokenVolumeOfACopiedPod(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}}}}
	mountToken(pod)
	copied := pod.DeepCopy()
	copied.Spec.Containers = append(copied.Spec.Containers, corev1.Container{Name: "look"})
	mountToken(copied)
	if n := len(copied.Spec.Volumes); n != 1 {
		t.Fatalf("the copy has %d volumes: %+v", n, copied.Spec.Volumes)
	}
	for _, c := range copied.Spec.Containers {
		if len(c.VolumeMounts) != 1 || c.VolumeMounts[0].Name != pod.Spec.Volumes[0].Name || c.VolumeMounts[0].MountPath != accessMountPath {
			t.Errorf("%s mounts %+v", c.Name, c.VolumeMounts)
		}
	}
	own := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{VolumeMounts: []corev1.VolumeMount{{Name: "x", MountPath: accessMountPath}}}}}}
	if mountToken(own); len(own.Spec.Volumes) != 0 {
		t.Errorf("a pod that mounts something else there was given %+v", own.Spec.Volumes)
	}
}
