package api

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A suspended Job without pods may ask for other resources and other nodes, never
// for another image.
func TestTemplateOfAJobThatRests(t *testing.T) {
	job := func(change func(j *batchv1.Job)) *batchv1.Job {
		yes := true
		j := &batchv1.Job{Spec: batchv1.JobSpec{Suspend: &yes, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}
		j.Status.StartTime = &metav1.Time{}
		j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobSuspended, Status: corev1.ConditionTrue}}
		change(j)
		return j
	}
	larger := func(j *batchv1.Job) {
		j.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}
		j.Spec.Template.Spec.NodeSelector = map[string]string{"a": "b"}
	}
	for name, tc := range map[string]struct {
		old, change func(j *batchv1.Job)
		want        string
	}{
		"rests":              {func(*batchv1.Job) {}, larger, ""},
		"never started":      {func(j *batchv1.Job) { j.Status = batchv1.JobStatus{} }, larger, ""},
		"has pods":           {func(j *batchv1.Job) { j.Status.Active = 1 }, larger, "spec.template"},
		"has not said so":    {func(j *batchv1.Job) { j.Status.Conditions = nil }, larger, "spec.template"},
		"runs":               {func(j *batchv1.Job) { j.Spec.Suspend = nil }, larger, "spec.template"},
		"asks for something": {func(*batchv1.Job) {}, func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Image = "x" }, "spec.template.spec"},
	} {
		old := job(tc.old)
		next := old.DeepCopy()
		tc.change(next)
		got := ""
		for _, err := range validateJobTemplateUpdate(next, old) {
			got = err.Field
		}
		if got != tc.want {
			t.Errorf("%s: refused at %q, want %q", name, got, tc.want)
		}
	}
}
