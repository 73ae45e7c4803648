package garbage

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"proa/api"
	"proa/client"
	"proa/controllers/simulation"
	"proa/reconcile"
)

type maker struct {
	t *testing.T
	*simulation.Cluster
}

// add makes a ConfigMap that the given ones own.
func (m maker) add(ns, name string, block bool, owners ...client.Object) client.Object {
	m.t.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	for _, o := range owners {
		cm.OwnerReferences = append(cm.OwnerReferences, m.ref(o, block))
	}
	obj, err := m.Create(m.t.Context(), cm)
	if err != nil {
		m.t.Fatal(err)
	}
	return obj
}

func (m maker) ref(o client.Object, block bool) metav1.OwnerReference {
	gvk := m.Registry().Of(o).GVK()
	return metav1.OwnerReference{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Name: o.GetName(), UID: o.GetUID(), BlockOwnerDeletion: &block}
}

func (m maker) del(o client.Object, p metav1.DeletionPropagation) {
	m.t.Helper()
	if err := m.Delete(m.t.Context(), m.Registry().Of(o), client.KeyOf(o), metav1.DeleteOptions{PropagationPolicy: &p}); err != nil {
		m.t.Fatal(err)
	}
}

// left names the ConfigMaps that there are, with the number of their owners and
// a star while they are being deleted.
func (m maker) left() string {
	synctest.Wait()
	var out []string
	for cm := range client.List[corev1.ConfigMap](m.View(), "") {
		s := cm.Name + strings.Repeat("'", len(cm.OwnerReferences))
		if cm.DeletionTimestamp != nil {
			s += "*"
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func run(t *testing.T, test func(m maker)) {
	t.Helper()
	var c *simulation.Cluster
	simulation.Run(t, func(cl *simulation.Cluster) { c = cl }, func(_ context.Context, c *simulation.Cluster) { test(maker{t, c}) },
		lazily(func() *api.Registry { return c.Registry() }))
}

// lazily is the controller on the registry of a client that is yet to be made.
func lazily(registry func() *api.Registry) reconcile.Controller {
	ctl := Controller(nil)
	ctl.Watches = []reconcile.Watch{{Keys: func(v client.View, e client.Event) []client.Key {
		return (&collector{registry()}).keys(v, e)
	}}}
	ctl.Decide = func(v client.View, now time.Time, key client.Key) reconcile.Plan {
		return (&collector{registry()}).decide(v, now, key)
	}
	return ctl
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestBackground(t *testing.T) {
	run(t, func(m maker) {
		a := m.add("ns", "a", true)
		b := m.add("ns", "b", true, a)
		m.add("ns", "c", true, b)
		x := m.add("ns", "x", true)
		m.add("ns", "d", true, a, x)
		want(t, "before", m.left(), "a b' c' d'' x")
		m.del(a, metav1.DeletePropagationBackground)
		want(t, "after", m.left(), "d' x")
	})
}

func TestForegroundWaitsForWhatBlocks(t *testing.T) {
	run(t, func(m maker) {
		a := m.add("ns", "a", true)
		b := m.add("ns", "b", true, a)
		c := m.add("ns", "c", true, b)
		held := c.DeepCopyObject().(client.Object)
		held.SetFinalizers([]string{"test.io/hold"})
		c, err := m.Update(t.Context(), held, "")
		if err != nil {
			t.Fatal(err)
		}
		m.add("ns", "d", false, a)
		m.del(a, metav1.DeletePropagationForeground)
		want(t, "while c is held", m.left(), "a* b'* c'*")
		c = m.View().Get(m.Registry().Of(c), "ns", "c").DeepCopyObject().(client.Object)
		c.SetFinalizers(nil)
		if _, err := m.Update(t.Context(), c, ""); err != nil {
			t.Fatal(err)
		}
		want(t, "in the end", m.left(), "")
	})
}

func TestForegroundCircleEnds(t *testing.T) {
	run(t, func(m maker) {
		a := m.add("ns", "a", true)
		b := m.add("ns", "b", true, a)
		round := a.DeepCopyObject().(client.Object)
		round.SetOwnerReferences([]metav1.OwnerReference{m.ref(b, true)})
		if _, err := m.Update(t.Context(), round, ""); err != nil {
			t.Fatal(err)
		}
		want(t, "before", m.left(), "a' b'")
		m.del(a, metav1.DeletePropagationForeground)
		want(t, "after", m.left(), "")
	})
}

func TestOrphan(t *testing.T) {
	run(t, func(m maker) {
		a := m.add("ns", "a", true)
		m.add("ns", "b", true, a)
		m.del(a, metav1.DeletePropagationOrphan)
		want(t, "after", m.left(), "b")
	})
}

func TestDanglingReferences(t *testing.T) {
	run(t, func(m maker) {
		a := m.add("ns", "a", true)
		m.add("other", "b", true, a) // its owner would have to be in "other"
		ghost := a.DeepCopyObject().(client.Object)
		ghost.SetUID("another")
		m.add("ns", "c", true, ghost) // the name is there, the UID is not
		want(t, "after", m.left(), "a")
	})
}

func TestClusterScopeAndUnknownKinds(t *testing.T) {
	run(t, func(m maker) {
		role, err := m.Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "r"}})
		if err != nil {
			t.Fatal(err)
		}
		a := m.add("ns", "a", true, role)
		bad := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "bad", OwnerReferences: []metav1.OwnerReference{m.ref(a, false)}}}
		if _, err := m.Create(t.Context(), bad); err != nil {
			t.Fatal(err)
		}
		odd := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "odd", OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "no.such/v1", Kind: "Thing", Name: "x", UID: "x"}}}}
		if _, err := m.Create(t.Context(), odd); err != nil {
			t.Fatal(err)
		}
		want(t, "at first", m.left(), "a' odd'")
		m.del(role, metav1.DeletePropagationBackground)
		want(t, "then", m.left(), "odd'")
		if m.View().Get(client.Row[rbacv1.ClusterRole](), "", "bad") == nil {
			t.Error("a cluster-scoped object with a namespaced owner was deleted")
		}
		found := false
		time.Sleep(time.Second)
		for e := range client.List[corev1.Event](m.View(), "default") {
			found = found || e.Reason == "OwnerRefInvalidNamespace"
		}
		if !found {
			t.Error("nothing was said about it")
		}
	})
}

// TestResourceAddedLater owns across a kind that comes while the loop runs.
func TestResourceAddedLater(t *testing.T) {
	run(t, func(m maker) {
		row := &api.Resource{Group: "test.io", Version: "v1", Kind: "Widget", Plural: "widgets", Namespaced: true,
			New:     func() api.Object { return &unstructured.Unstructured{} },
			NewList: func() runtime.Object { return &unstructured.UnstructuredList{} }}
		if err := m.Registry().Replace(nil, []*api.Resource{row}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "test.io/v1", "kind": "Widget",
			"metadata": map[string]any{"namespace": "ns", "name": "w"}}}
		stored, err := m.Create(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		m.add("ns", "a", true, stored)
		want(t, "before", m.left(), "a'")
		m.del(stored, metav1.DeletePropagationBackground)
		want(t, "after", m.left(), "")
	})
}
