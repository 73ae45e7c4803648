package apiserver_test

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"proa/api"
	"proa/apiserver/discovery"
)

// TestEveryKind goes through the life of an object of every kind that can be
// created, as a third of Kubernetes' conformance tests do for one kind each:
// create, get, list here and everywhere, patch, apply, update, the status, dry
// runs, a collection's delete, and what a watch tells of all that.
func TestEveryKind(t *testing.T) {
	h := start(t)
	clients, err := dynamic.NewForConfig(h.config("root"))
	must(t, err)
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}} // pods need it
	_, err = h.clients(t, "application/json").CoreV1().ServiceAccounts("default").Create(t.Context(), sa, metav1.CreateOptions{})
	must(t, err)
	seen := map[string]bool{}
	for _, u := range everyKind(t) {
		gvk := u.GroupVersionKind()
		served, ok := api.Builtin().ByGVK(gvk)
		if !ok {
			t.Fatalf("%v is not served", gvk)
		}
		seen[served.Key()] = true
		if served.NewList == nil {
			continue
		}
		t.Run(served.Plural+"."+gvk.Group, func(t *testing.T) {
			l := &life{T: t, row: served.Resource, at: clients.Resource(gvk.GroupVersion().WithResource(served.Plural)), obj: u}
			l.ResourceInterface = l.at
			if served.Namespaced {
				u.SetNamespace("default")
				l.ResourceInterface = l.at.Namespace("default")
				if _, about, _ := unstructured.NestedMap(u.Object, "involvedObject"); about {
					must(t, unstructured.SetNestedField(u.Object, "default", "involvedObject", "namespace"))
				}
			}
			l.run()
		})
	}
	for _, row := range api.Builtin().All() {
		if row.NewList != nil && slices.Contains(discovery.Verbs(row), "create") && !seen[row.Key()] {
			t.Errorf("no object of %s is tried", row.Key())
		}
	}
}

// everyKind are objects of all kinds, the ones that kubectl's transcripts use.
func everyKind(t *testing.T) (out []*unstructured.Unstructured) {
	t.Helper()
	text, err := os.ReadFile("../test/golden/testdata/objects.yaml")
	must(t, err)
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		data, err := yaml.YAMLToJSON([]byte(doc))
		must(t, err)
		u := &unstructured.Unstructured{}
		must(t, u.UnmarshalJSON(data))
		out = append(out, u)
	}
	return out
}

// life is what happens to one object.
type life struct {
	*testing.T
	dynamic.ResourceInterface
	row *api.Resource
	at  dynamic.NamespaceableResourceInterface
	obj *unstructured.Unstructured
}

const lifeLabel = "test.example.com/life"

func (l *life) run() {
	ctx, name := l.Context(), l.obj.GetName()
	l.obj.SetLabels(map[string]string{lifeLabel: l.row.Plural})
	mine := metav1.ListOptions{LabelSelector: lifeLabel + "=" + l.row.Plural}
	events, err := l.at.Watch(ctx, mine)
	must(l, err)
	defer events.Stop()
	dry, err := l.Create(ctx, l.obj.DeepCopy(), metav1.CreateOptions{DryRun: []string{"All"}})
	must(l, err)
	if _, err := l.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) || dry.GetUID() == "" {
		l.Errorf("a dry run has created it: %v", err)
	}
	made, err := l.Create(ctx, l.obj.DeepCopy(), metav1.CreateOptions{})
	must(l, err)
	l.expect(events, watch.Added)
	if _, err := l.Create(ctx, l.obj.DeepCopy(), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		l.Errorf("created twice: %v", err)
	}
	for where, list := range map[string]dynamic.ResourceInterface{"its namespace": l, "all namespaces": l.at} {
		found, err := list.List(ctx, mine)
		must(l, err)
		if len(found.Items) != 1 || found.Items[0].GetUID() != made.GetUID() {
			l.Errorf("%d in %s", len(found.Items), where)
		}
	}
	l.change(events, made)
	l.status()
	must(l, l.Delete(ctx, name, metav1.DeleteOptions{DryRun: []string{"All"}}))
	if _, err := l.Get(ctx, name, metav1.GetOptions{}); err != nil {
		l.Errorf("a dry run has deleted it: %v", err)
	}
	l.end(events, mine)
}

// change patches, applies and updates.
func (l *life) change(events watch.Interface, made *unstructured.Unstructured) {
	ctx, name := l.Context(), l.obj.GetName()
	patched, err := l.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"yes"}}}`), metav1.PatchOptions{})
	must(l, err)
	l.expect(events, watch.Modified)
	if patched.GetAnnotations()["patched"] != "yes" || patched.GetUID() != made.GetUID() {
		l.Errorf("patched: %v", patched.GetAnnotations())
	}
	intent := &unstructured.Unstructured{}
	intent.SetGroupVersionKind(l.obj.GroupVersionKind())
	intent.SetName(name)
	intent.SetAnnotations(map[string]string{"applied": "yes"})
	applied, err := l.Apply(ctx, name, intent, metav1.ApplyOptions{FieldManager: "life"})
	must(l, err)
	l.expect(events, watch.Modified)
	if !slices.ContainsFunc(applied.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool { return m.Manager == "life" && m.Operation == "Apply" }) {
		l.Error("nobody manages what was applied")
	}
	next := applied.DeepCopy()
	next.SetAnnotations(map[string]string{"updated": "yes", "applied": "yes"})
	updated, err := l.Update(ctx, next, metav1.UpdateOptions{})
	must(l, err)
	l.expect(events, watch.Modified)
	if updated.GetResourceVersion() == applied.GetResourceVersion() || updated.GetAnnotations()["patched"] != "" {
		l.Errorf("updated: %v", updated.GetAnnotations())
	}
	if _, err := l.Update(ctx, next, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		l.Errorf("an update of an old version: %v", err)
	}
}

// status reads and patches the status where there is one.
func (l *life) status() {
	sub := l.row.Subresource("status")
	if sub == nil {
		return
	}
	got, err := l.Get(l.Context(), l.obj.GetName(), metav1.GetOptions{}, "status")
	must(l, err)
	patched, err := l.Patch(l.Context(), l.obj.GetName(), types.MergePatchType, []byte(`{"metadata":{"annotations":{"status":"patched"}}}`), metav1.PatchOptions{}, "status")
	must(l, err)
	if patched.GetUID() != got.GetUID() || patched.GetGeneration() != got.GetGeneration() {
		l.Errorf("a patch of the status has made generation %d of %d", patched.GetGeneration(), got.GetGeneration())
	}
}

// end deletes it with all like it. Finalizers may hold it: their controllers are
// not here.
func (l *life) end(events watch.Interface, mine metav1.ListOptions) {
	ctx, name := l.Context(), l.obj.GetName()
	if slices.Contains(discovery.Verbs(l.row), "deletecollection") {
		must(l, l.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, mine))
	} else {
		must(l, l.Delete(ctx, name, metav1.DeleteOptions{}))
	}
	left, err := l.Get(ctx, name, metav1.GetOptions{})
	if err == nil && left.GetDeletionTimestamp() != nil {
		return
	}
	if !apierrors.IsNotFound(err) {
		l.Fatalf("after its delete: %v", err)
	}
	for l.next(events).Type != watch.Deleted {
	}
}

func (l *life) expect(events watch.Interface, want watch.EventType) {
	l.Helper()
	if e := l.next(events); e.Type != want {
		l.Errorf("the watch says %s, not %s", e.Type, want)
	}
}

func (l *life) next(events watch.Interface) watch.Event {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), 20*time.Second)
	defer cancel()
	select {
	case e, ok := <-events.ResultChan():
		if !ok {
			l.Fatal("the watch has ended")
		}
		return e
	case <-ctx.Done():
		l.Fatal("the watch says nothing")
	}
	return watch.Event{}
}
