package apiserver_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

var encodings = []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf}

// TestLifeOfAConfigMap drives the ordinary verbs with client-go.
func TestLifeOfAConfigMap(t *testing.T) {
	h := start(t)
	for _, ct := range encodings {
		t.Run(ct, func(t *testing.T) { lifeOfAConfigMap(t, h.clients(t, ct)) })
	}
}

func lifeOfAConfigMap(t *testing.T, cs *kubernetes.Clientset) {
	ctx := t.Context()
	maps := cs.CoreV1().ConfigMaps("default")
	w, err := maps.Watch(ctx, metav1.ListOptions{LabelSelector: "app=x"})
	must(t, err)
	defer w.Stop()

	made, err := maps.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "life-", Labels: map[string]string{"app": "x"}}, Data: map[string]string{"a": "1"},
	}, metav1.CreateOptions{})
	must(t, err)
	if made.UID == "" || made.ResourceVersion == "" || made.CreationTimestamp.IsZero() || len(made.Name) != len("life-")+5 {
		t.Errorf("the system filled in too little: %+v", made.ObjectMeta)
	}
	if len(made.ManagedFields) != 1 || made.ManagedFields[0].Operation != metav1.ManagedFieldsOperationUpdate {
		t.Errorf("managedFields: %+v", made.ManagedFields)
	}
	expect(t, w, watch.Added, made.ResourceVersion)

	got, err := maps.Get(ctx, made.Name, metav1.GetOptions{})
	must(t, err)
	if got.ResourceVersion != made.ResourceVersion || got.Data["a"] != "1" {
		t.Errorf("got %+v", got)
	}
	got.Data["a"] = "2"
	updated, err := maps.Update(ctx, got, metav1.UpdateOptions{})
	must(t, err)
	expect(t, w, watch.Modified, updated.ResourceVersion)

	same, err := maps.Update(ctx, updated.DeepCopy(), metav1.UpdateOptions{})
	must(t, err)
	if same.ResourceVersion != updated.ResourceVersion {
		t.Errorf("an update that changes nothing was written: %s to %s", updated.ResourceVersion, same.ResourceVersion)
	}
	if _, err := maps.Update(ctx, made, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update of an old state: %v", err)
	}
	patched, err := maps.Patch(ctx, made.Name, types.MergePatchType, []byte(`{"metadata":{"labels":{"app":null}}}`), metav1.PatchOptions{})
	must(t, err)
	expect(t, w, watch.Deleted, patched.ResourceVersion)

	must(t, maps.Delete(ctx, made.Name, metav1.DeleteOptions{}))
	if _, err := maps.Get(ctx, made.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the delete: %v", err)
	}
	if err := maps.Delete(ctx, made.Name, metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the second delete: %v", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, w watch.Interface, typ watch.EventType, rv string) {
	t.Helper()
	select {
	case ev, ok := <-w.ResultChan():
		if !ok {
			t.Fatal("the watch ended")
		}
		obj, ok := ev.Object.(metav1.Object)
		if !ok || ev.Type != typ || obj.GetResourceVersion() != rv {
			t.Fatalf("got %s %+v, want %s at %s", ev.Type, ev.Object, typ, rv)
		}
	case <-time.After(5 * time.Second):
		t.Fatalf("no %s event", typ)
	}
}

func TestPaging(t *testing.T) {
	h := start(t)
	for _, ct := range encodings {
		t.Run(ct, func(t *testing.T) {
			ctx, maps := t.Context(), h.clients(t, ct).CoreV1().ConfigMaps("kube-public")
			must(t, maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
			for i := range 10 {
				_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("m%d", i)}}, metav1.CreateOptions{})
				must(t, err)
			}
			page, err := maps.List(ctx, metav1.ListOptions{Limit: 4})
			must(t, err)
			if len(page.Items) != 4 || page.RemainingItemCount == nil || *page.RemainingItemCount != 6 {
				t.Fatalf("first page: %d items, remaining %v", len(page.Items), page.RemainingItemCount)
			}
			must(t, maps.Delete(ctx, "m7", metav1.DeleteOptions{}))
			rest, err := maps.List(ctx, metav1.ListOptions{Limit: 100, Continue: page.Continue})
			must(t, err)
			if len(rest.Items) != 6 || rest.ResourceVersion != page.ResourceVersion || rest.Continue != "" {
				t.Fatalf("the rest is not of the same revision: %d items at %s, want 6 at %s", len(rest.Items), rest.ResourceVersion, page.ResourceVersion)
			}
			now, err := maps.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name!=m1"})
			must(t, err)
			if len(now.Items) != 8 {
				t.Fatalf("%d items now, want 8", len(now.Items))
			}
		})
	}
}

func TestInformer(t *testing.T) {
	h := start(t)
	for _, ct := range encodings {
		t.Run(ct, func(t *testing.T) {
			cs := h.clients(t, ct)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			f := informers.NewSharedInformerFactoryWithOptions(cs, 0, informers.WithNamespace("kube-system"))
			inf := f.Core().V1().ConfigMaps().Informer()
			f.Start(ctx.Done())
			if !cache.WaitForCacheSync(ctx.Done(), inf.HasSynced) {
				t.Fatal("the informer did not sync")
			}
			for i := range 50 {
				_, err := cs.CoreV1().ConfigMaps("kube-system").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: fmt.Sprint("i", i, "-")}}, metav1.CreateOptions{})
				must(t, err)
			}
			list, err := cs.CoreV1().ConfigMaps("kube-system").List(ctx, metav1.ListOptions{})
			must(t, err)
			for end := time.Now().Add(5 * time.Second); len(inf.GetStore().ListKeys()) < len(list.Items); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("the informer has %d of %d", len(inf.GetStore().ListKeys()), len(list.Items))
				}
			}
			cancel()
			f.Shutdown()
		})
	}
}

func TestApply(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	maps := cs.CoreV1().ConfigMaps("default")
	mine := applycorev1.ConfigMap("applied", "default").WithData(map[string]string{"a": "1", "b": "1"})
	made, err := maps.Apply(ctx, mine, metav1.ApplyOptions{FieldManager: "me"})
	must(t, err)
	again, err := maps.Apply(ctx, mine, metav1.ApplyOptions{FieldManager: "me"})
	must(t, err)
	if again.ResourceVersion != made.ResourceVersion {
		t.Errorf("an apply that changes nothing was written")
	}
	yours := applycorev1.ConfigMap("applied", "default").WithData(map[string]string{"a": "2"})
	_, err = maps.Apply(ctx, yours, metav1.ApplyOptions{FieldManager: "you"})
	if !apierrors.IsConflict(err) {
		t.Fatalf("an apply over another's field: %v", err)
	}
	forced, err := maps.Apply(ctx, yours, metav1.ApplyOptions{FieldManager: "you", Force: true})
	must(t, err)
	if forced.Data["a"] != "2" || forced.Data["b"] != "1" {
		t.Errorf("forced: %v", forced.Data)
	}
	less := applycorev1.ConfigMap("applied", "default").WithData(map[string]string{})
	left, err := maps.Apply(ctx, less, metav1.ApplyOptions{FieldManager: "me"})
	must(t, err)
	if _, kept := left.Data["b"]; kept || left.Data["a"] != "2" {
		t.Errorf("what a manager gives up goes, unless another has it: %v", left.Data)
	}
}

func TestNamespacesAndPods(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeProtobuf)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if _, err := cs.CoreV1().Pods("nowhere").Create(ctx, pod, metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("a pod in no namespace: %v", err)
	}
	if err := cs.CoreV1().Namespaces().Delete(ctx, "kube-system", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Fatalf("deleting kube-system: %v", err)
	}
	_, err := cs.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}, metav1.CreateOptions{})
	must(t, err)
	_, err = cs.CoreV1().ServiceAccounts("team").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	must(t, err)
	made, err := cs.CoreV1().Pods("team").Create(ctx, pod, metav1.CreateOptions{})
	must(t, err)
	must(t, cs.CoreV1().Pods("team").Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}, metav1.CreateOptions{}))
	err = cs.CoreV1().Pods("team").Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n2"}}, metav1.CreateOptions{})
	if !apierrors.IsConflict(err) {
		t.Fatalf("a second binding: %v", err)
	}
	onNode, err := cs.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1"})
	must(t, err)
	if len(onNode.Items) != 1 || onNode.Items[0].UID != made.UID {
		t.Fatalf("pods of the node: %+v", onNode.Items)
	}
	must(t, cs.CoreV1().Pods("team").Delete(ctx, "p", metav1.DeleteOptions{}))
	dying, err := cs.CoreV1().Pods("team").Get(ctx, "p", metav1.GetOptions{})
	must(t, err)
	if dying.DeletionTimestamp == nil || *dying.DeletionGracePeriodSeconds != 30 {
		t.Fatalf("a bound pod dies by its grace period: %+v", dying.ObjectMeta)
	}
	must(t, cs.CoreV1().Pods("team").Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	if _, err := cs.CoreV1().Pods("team").Get(ctx, "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("after the forced delete: %v", err)
	}
	must(t, cs.CoreV1().Namespaces().Delete(ctx, "team", metav1.DeleteOptions{}))
	ns, err := cs.CoreV1().Namespaces().Get(ctx, "team", metav1.GetOptions{})
	must(t, err)
	if ns.DeletionTimestamp == nil || ns.Status.Phase != corev1.NamespaceTerminating {
		t.Fatal("the namespace does not wait for its finalizer")
	}
	_, err = cs.CoreV1().ConfigMaps("team").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{})
	if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Fatalf("creating in a dying namespace: %v", err)
	}
	ns.Spec.Finalizers = nil
	_, err = cs.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{})
	must(t, err)
	if _, err := cs.CoreV1().Namespaces().Get(ctx, "team", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("after finalize: %v", err)
	}
}
