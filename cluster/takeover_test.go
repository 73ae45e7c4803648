package cluster

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"proa/store/etcd/etcdtest"
)

// Of two servers on one etcd the one that runs the controllers is killed under
// load: the other runs them once the lease is over, nothing that was acknowledged
// is lost, and its watches go on, telling everything once.
func TestCrashesLeader(t *testing.T) {
	etcd := etcdtest.Start(t)
	a := newVictim(t, etcd.URL, "", nil)
	b := newVictim(t, etcd.URL, a.data, nil)
	leads, next := a, b
	eventually(t, "a leader", func() bool { return leaseOf(t, b) != nil })
	if holder := *leaseOf(t, b).Spec.HolderIdentity; holder == fmt.Sprintf("crash:%d", b.port) {
		leads, next = b, a
	}
	podsOf(t, next.client, "before")

	h := newHistory(t, []*victim{a, b})
	stop := h.run(t, []*victim{a, b})
	h.more(t, 20)
	leads.kill()
	last := leaseOf(t, next)
	podsOf(t, next.client, "after")
	now := leaseOf(t, next)
	h.more(t, 20)
	stop()
	h.judge(t, next)

	if holder := ptr.Deref(now.Spec.HolderIdentity, ""); holder != fmt.Sprintf("crash:%d", next.port) {
		t.Errorf("%q leads", holder)
	}
	gap := now.Spec.AcquireTime.Sub(last.Spec.RenewTime.Time)
	t.Logf("the other leads %s after the last sign of the one that was killed; the lease is for %s", gap, crashLease)
	if gap < crashLease || gap > crashLease+10*time.Second {
		t.Errorf("it took %s, with a lease for %s", gap, crashLease)
	}
	survivor := 0
	if next == b {
		survivor = 1
	}
	if n := h.watches(survivor); n != 1 {
		t.Errorf("the watch of the server that lived was begun %d times", n)
	}
}

// leaseOf is the controllers' Lease, if anybody holds it.
func leaseOf(t *testing.T, v *victim) *coordinationv1.Lease {
	l, err := v.client.CoordinationV1().Leases("kube-system").Get(t.Context(), "kube-controller-manager", metav1.GetOptions{})
	if err != nil || ptr.Deref(l.Spec.HolderIdentity, "") == "" {
		return nil
	}
	return l
}

// podsOf waits until controllers have made a pod of a Deployment.
func podsOf(t *testing.T, c *kubernetes.Clientset, name string) {
	t.Helper()
	labels := map[string]string{"app": name}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}
	if _, err := c.AppsV1().Deployments("default").Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a pod of "+name, func() bool {
		pods, err := c.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
		return err == nil && len(pods.Items) == 1
	})
}
