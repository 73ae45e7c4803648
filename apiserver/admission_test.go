package apiserver_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"proa/auth"
	"proa/client"
)

func account(t *testing.T, cs *kubernetes.Clientset, ns string) {
	t.Helper()
	_, err := cs.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	must(t, err)
}

func podNamed(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
}

// TestPodFilledIn looks at what admission adds to a plain pod.
func TestPodFilledIn(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeProtobuf)
	pods := cs.CoreV1().Pods("default")
	_, err := pods.Create(ctx, podNamed("early"), metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `serviceaccount "default" not found`) {
		t.Fatalf("without a service account: %v", err)
	}
	account(t, cs, "default")
	p := podNamed("p")
	p.Spec.PriorityClassName = "system-cluster-critical"
	made, err := pods.Create(ctx, p, metav1.CreateOptions{})
	must(t, err)
	if *made.Spec.Priority != 2000000000 || *made.Spec.PreemptionPolicy != corev1.PreemptLowerPriority {
		t.Errorf("priority %d %s", *made.Spec.Priority, *made.Spec.PreemptionPolicy)
	}
	if len(made.Spec.Tolerations) != 2 || made.Spec.ServiceAccountName != "default" {
		t.Errorf("spec: %+v", made.Spec)
	}
	if len(made.Spec.Volumes) != 1 || made.Spec.Containers[0].VolumeMounts[0].MountPath != "/var/run/secrets/kubernetes.io/serviceaccount" {
		t.Errorf("volumes: %+v", made.Spec.Volumes)
	}
	for _, own := range made.ManagedFields {
		if strings.Contains(string(own.FieldsV1.Raw), "f:serviceAccountName") {
			t.Error("the client owns what admission filled in")
		}
	}
	_, err = cs.SchedulingV1().PriorityClasses().Create(ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Value: 5, GlobalDefault: true}, metav1.CreateOptions{})
	must(t, err)
	made, err = pods.Create(ctx, podNamed("q"), metav1.CreateOptions{})
	must(t, err)
	if *made.Spec.Priority != 5 || made.Spec.PriorityClassName != "d" {
		t.Errorf("default class: %v %s", *made.Spec.Priority, made.Spec.PriorityClassName)
	}
}

func service(name string, typ corev1.ServiceType) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Type: typ, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(5000)}}},
	}
}

// TestServicesShareNothing creates Services at once and looks for an address or a
// port that two of them got.
func TestServicesShareNothing(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeProtobuf)
	var wg sync.WaitGroup
	for i := range 120 {
		wg.Go(func() {
			if _, err := cs.CoreV1().Services("default").Create(ctx, service(fmt.Sprint("s", i), corev1.ServiceTypeNodePort), metav1.CreateOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list, err := cs.CoreV1().Services("default").List(ctx, metav1.ListOptions{})
	must(t, err)
	ips, ports := map[string]string{}, map[int32]string{}
	for _, s := range list.Items {
		if other := ips[s.Spec.ClusterIP]; other != "" || s.Spec.ClusterIP == "" {
			t.Errorf("%s and %s have %q", s.Name, other, s.Spec.ClusterIP)
		}
		ips[s.Spec.ClusterIP] = s.Name
		if s.Name == "kubernetes" {
			continue
		}
		p := s.Spec.Ports[0].NodePort
		if other := ports[p]; other != "" || p < 30000 || p > 32767 {
			t.Errorf("%s and %s have port %d", s.Name, other, p)
		}
		ports[p] = s.Name
	}
	taken := list.Items[len(list.Items)-1]
	again := service("again", corev1.ServiceTypeClusterIP)
	again.Spec.ClusterIP = taken.Spec.ClusterIP
	if _, err = cs.CoreV1().Services("default").Create(ctx, again, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "already allocated") {
		t.Errorf("a taken address: %v", err)
	}
	must(t, cs.CoreV1().Services("default").Delete(ctx, taken.Name, metav1.DeleteOptions{}))
	if _, err = cs.CoreV1().Services("default").Create(ctx, again, metav1.CreateOptions{}); err != nil {
		t.Errorf("a freed address: %v", err)
	}
	addrs, err := cs.NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{})
	must(t, err)
	if len(addrs.Items) != len(list.Items) {
		t.Errorf("%d IPAddresses for %d services", len(addrs.Items), len(list.Items))
	}
}

// TestQuotaHolds lets many clients at a quota at once.
func TestQuotaHolds(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	hard := corev1.ResourceList{"configmaps": resource.MustParse("7")}
	q, err := cs.CoreV1().ResourceQuotas("default").Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{})
	must(t, err)
	_, err = cs.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "status unknown") {
		t.Fatalf("before the quota was counted: %v", err)
	}
	q.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: corev1.ResourceList{"configmaps": resource.MustParse("0")}}
	_, err = cs.CoreV1().ResourceQuotas("default").UpdateStatus(ctx, q, metav1.UpdateOptions{})
	must(t, err)
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			_, err := cs.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m", i)}}, metav1.CreateOptions{})
			if err != nil && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: q, requested: configmaps=1, used: configmaps=7, limited: configmaps=7")) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list, err := cs.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	must(t, err)
	if len(list.Items) != 7 {
		t.Errorf("%d config maps under a quota of 7", len(list.Items))
	}
}

func TestLimitRange(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	account(t, cs, "default")
	cpu := func(s string) corev1.ResourceList { return corev1.ResourceList{"cpu": resource.MustParse(s)} }
	_, err := cs.CoreV1().LimitRanges("default").Create(ctx, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "l"}, Spec: corev1.LimitRangeSpec{
		Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, Default: cpu("500m"), DefaultRequest: cpu("100m"), Max: cpu("1")}},
	}}, metav1.CreateOptions{})
	must(t, err)
	p, err := cs.CoreV1().Pods("default").Create(ctx, podNamed("p"), metav1.CreateOptions{})
	must(t, err)
	if res := p.Spec.Containers[0].Resources; res.Requests.Cpu().String() != "100m" || res.Limits.Cpu().String() != "500m" {
		t.Errorf("defaults: %+v", res)
	}
	big := podNamed("big")
	big.Spec.Containers[0].Resources.Limits = cpu("2")
	_, err = cs.CoreV1().Pods("default").Create(ctx, big, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "maximum cpu usage per Container is 1, but limit is 2") {
		t.Errorf("too big: %v", err)
	}
}

// TestEviction spends a disruption budget.
func TestEviction(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	account(t, cs, "default")
	for _, name := range []string{"a", "b"} {
		p := podNamed(name)
		p.Labels = map[string]string{"app": "x"}
		made, err := cs.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
		must(t, err)
		made.Status.Phase = corev1.PodRunning
		made.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		_, err = cs.CoreV1().Pods("default").UpdateStatus(ctx, made, metav1.UpdateOptions{})
		must(t, err)
	}
	pdb, err := cs.PolicyV1().PodDisruptionBudgets("default").Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}},
	}, metav1.CreateOptions{})
	must(t, err)
	evict := func(pod string) error {
		return cs.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name(pod).SubResource("eviction").
			MaxRetries(0).Body(&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod}}).Do(ctx).Error()
	}
	if err := evict("a"); !apierrors.IsTooManyRequests(err) {
		t.Fatalf("before the budget was counted: %v", err)
	}
	pdb.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: pdb.Generation, DisruptionsAllowed: 1, CurrentHealthy: 2, DesiredHealthy: 1, ExpectedPods: 2}
	_, err = cs.PolicyV1().PodDisruptionBudgets("default").UpdateStatus(ctx, pdb, metav1.UpdateOptions{})
	must(t, err)
	must(t, evict("a"))
	if err := evict("b"); !apierrors.IsTooManyRequests(err) || !apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause) {
		t.Fatalf("with nothing left: %v", err)
	}
}

// TestPodSecurity enforces a standard by the namespace's labels.
func TestPodSecurity(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	_, err := cs.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: "strict", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "baseline"},
	}}, metav1.CreateOptions{})
	must(t, err)
	account(t, cs, "strict")
	_, err = cs.CoreV1().Pods("strict").Create(ctx, podNamed("plain"), metav1.CreateOptions{})
	must(t, err)
	bad := podNamed("bad")
	bad.Spec.HostNetwork = true
	_, err = cs.CoreV1().Pods("strict").Create(ctx, bad, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`) {
		t.Errorf("hostNetwork under baseline: %v", err)
	}
}

// TestNodeRestriction: a node may write itself and its own pods, nothing else.
func TestNodeRestriction(t *testing.T) {
	h := start(t)
	onNode(t, h, "n1", "c")
	node := auth.User{Name: "system:node:n2", Groups: []string{auth.GroupNodes}}
	c := h.Client(node)
	_, err := c.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	if !apierrors.IsForbidden(err) {
		t.Errorf("another node: %v", err)
	}
	_, err = c.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2", Labels: map[string]string{"node-restriction.kubernetes.io/x": "y"}}})
	if !apierrors.IsForbidden(err) {
		t.Errorf("a restricted label: %v", err)
	}
	_, err = c.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2", Labels: map[string]string{"kubernetes.io/hostname": "n2"}}})
	must(t, err)
	pods := h.row("pods")
	obj, err := c.Get(t.Context(), pods, client.Key{Namespace: "default", Name: "p"})
	must(t, err)
	p := obj.DeepCopyObject().(*corev1.Pod)
	p.Status.Phase = corev1.PodFailed
	if _, err = c.Update(t.Context(), p, "status"); !apierrors.IsForbidden(err) {
		t.Errorf("another node's pod: %v", err)
	}
	node.Name = "system:node:n1"
	if obj, err = h.Client(node).Update(t.Context(), p, "status"); err != nil {
		t.Fatalf("its own pod: %v", err)
	}
	p = obj.DeepCopyObject().(*corev1.Pod)
	p.Labels = map[string]string{"a": "b"}
	if _, err = h.Client(node).Update(t.Context(), p, ""); !apierrors.IsForbidden(err) {
		t.Errorf("its own pod's spec: %v", err)
	}
}

// TestDefaultClasses: what names no class gets the newest default one, and what
// may come into use is held from the start.
func TestDefaultClasses(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	claim := func(name string) *corev1.PersistentVolumeClaim {
		made, err := cs.CoreV1().PersistentVolumeClaims("default").Create(ctx, &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}},
			},
		}, metav1.CreateOptions{})
		must(t, err)
		return made
	}
	if c := claim("before"); c.Spec.StorageClassName != nil || len(c.Finalizers) != 1 || c.Finalizers[0] != "kubernetes.io/pvc-protection" {
		t.Errorf("without a default: %v %v", c.Spec.StorageClassName, c.Finalizers)
	}
	_, err := cs.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: "fast", Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
		Provisioner: "example.com/x",
	}, metav1.CreateOptions{})
	must(t, err)
	if c := claim("after"); ptr.Deref(c.Spec.StorageClassName, "") != "fast" {
		t.Errorf("with a default: %v", c.Spec.StorageClassName)
	}
}
