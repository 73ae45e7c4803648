package apiserver_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// TestQuotaScopeChanges gives a pod a deadline, which brings it into the scope of
// a quota: the quota is used up with that update, not when a controller has
// looked.
func TestQuotaScopeChanges(t *testing.T) {
	h := start(t)
	cs := h.clients(t, "application/json").CoreV1()
	_, err := cs.ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	must(t, err)
	one := corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1")}
	quota, err := cs.ResourceQuotas("default").Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "terminating"},
		Spec:       corev1.ResourceQuotaSpec{Hard: one, Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeTerminating}},
	}, metav1.CreateOptions{})
	must(t, err)
	quota.Status = corev1.ResourceQuotaStatus{Hard: one, Used: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("0")}}
	_, err = cs.ResourceQuotas("default").UpdateStatus(t.Context(), quota, metav1.UpdateOptions{})
	must(t, err)
	pod := func(name string, deadline *int64) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PodSpec{ActiveDeadlineSeconds: deadline, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	}
	made, err := cs.Pods("default").Create(t.Context(), pod("a", nil), metav1.CreateOptions{})
	must(t, err)
	used := func() string {
		q, err := cs.ResourceQuotas("default").Get(t.Context(), "terminating", metav1.GetOptions{})
		must(t, err)
		n := q.Status.Used[corev1.ResourcePods]
		return n.String()
	}
	if n := used(); n != "0" {
		t.Fatalf("%s used by a pod that is out of scope", n)
	}
	made.Spec.ActiveDeadlineSeconds = ptr.To[int64](3600)
	made, err = cs.Pods("default").Update(t.Context(), made, metav1.UpdateOptions{})
	must(t, err)
	if n := used(); n != "1" {
		t.Errorf("%s used once the pod is in scope", n)
	}
	made.Labels = map[string]string{"a": "b"}
	_, err = cs.Pods("default").Update(t.Context(), made, metav1.UpdateOptions{})
	must(t, err)
	if n := used(); n != "1" {
		t.Errorf("%s used after another change of it", n)
	}
	if _, err = cs.Pods("default").Create(t.Context(), pod("b", ptr.To[int64](3600)), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a pod beyond the quota: %v", err)
	}
}
