package api

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func typicalPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web-5d9c7b6f4-abcde", Namespace: "default", Labels: map[string]string{"app": "web", "pod-template-hash": "5d9c7b6f4"}},
		Spec: corev1.PodSpec{
			ServiceAccountName: "default",
			Containers: []corev1.Container{{
				Name: "web", Image: "registry/web:1", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
				Env:            []corev1.EnvVar{{Name: "A", Value: "b"}},
				VolumeMounts:   []corev1.VolumeMount{{Name: "config", MountPath: "/etc/web"}},
				ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(80)}}},
			}},
			Volumes:     []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "web"}}}}},
			Tolerations: []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}},
		},
	}
}

// The rules' share of creating a pod.
func BenchmarkCreatePod(b *testing.B) {
	row := Builtin().ByKey("pods")
	b.ReportAllocs()
	for b.Loop() {
		p := typicalPod()
		row.PrepareCreate(p)
		row.Default(p)
		row.Settle(p)
		if errs := row.Validate(p); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}

// The rules' share of a status update, the most frequent write of a cluster.
func BenchmarkPodStatus(b *testing.B) {
	row := Builtin().ByKey("pods")
	old := typicalPod()
	row.PrepareCreate(old)
	row.Default(old)
	old.ResourceVersion = "1"
	status := row.Subresource("status")
	b.ReportAllocs()
	for b.Loop() {
		p := old.DeepCopy()
		p.Status.Phase = corev1.PodRunning
		status.PrepareUpdate(p, old)
		if errs := status.ValidateUpdate(p, old); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}

func BenchmarkPodCells(b *testing.B) {
	row := Builtin().ByKey("pods")
	p := typicalPod()
	b.ReportAllocs()
	for b.Loop() {
		row.Cells(p, time.Time{})
	}
}
