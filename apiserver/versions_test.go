package apiserver_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"proa/apiserver"
)

// TestEventsUnderTheirNewName: an Event of the older version keeps its owners
// when it is written in the newer one, and is found by the newer names.
func TestEventsUnderTheirNewName(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeProtobuf)
	events := cs.EventsV1().Events("default")
	_, err := events.Create(ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e"}, Regarding: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"},
		EventTime: metav1.NowMicro(), ReportingController: "example.com/c", ReportingInstance: "i", Action: "Do", Reason: "Test", Type: "Normal",
	}, metav1.CreateOptions{FieldManager: "first"})
	must(t, err)
	_, err = cs.CoreV1().Events("default").Patch(ctx, "e", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{FieldManager: "second"})
	must(t, err)
	got, err := events.Patch(ctx, "e", types.StrategicMergePatchType, []byte(`{"series":{"count":2,"lastObservedTime":"2026-01-01T00:00:00.000000Z"}}`), metav1.PatchOptions{FieldManager: "third"})
	must(t, err)
	owners := map[string]string{}
	for _, m := range got.ManagedFields {
		owners[m.Manager] = m.APIVersion
	}
	if owners["first"] != "events.k8s.io/v1" || owners["second"] != "v1" || owners["third"] != "events.k8s.io/v1" {
		t.Errorf("owners: %v", owners)
	}
	for selector, want := range map[string]int{"reportingController=example.com/c": 1, "reportingController=other": 0, "regarding.name=p,reason=Test": 1, "type!=Normal": 0} {
		list, err := events.List(ctx, metav1.ListOptions{FieldSelector: selector})
		must(t, err)
		if len(list.Items) != want {
			t.Errorf("%s finds %d, want %d", selector, len(list.Items), want)
		}
	}
	if _, err := events.List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=p"}); !apierrors.IsBadRequest(err) {
		t.Errorf("an older name in the newer version: %v", err)
	}
	if _, err := cs.CoreV1().Events("").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=p"}); err != nil {
		t.Error(err)
	}
}

// TestReviewIsNoTable: what is only answered, and never stored, has no table.
func TestReviewIsNoTable(t *testing.T) {
	h := start(t)
	err := h.clients(t, runtime.ContentTypeJSON).AuthorizationV1().RESTClient().Post().Resource("selfsubjectaccessreviews").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").
		Body([]byte(`{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{"nonResourceAttributes":{"path":"/","verb":"get"}}}`)).
		Do(t.Context()).Error()
	if !apierrors.IsNotAcceptable(err) {
		t.Errorf("want not acceptable, have %v", err)
	}
}

// TestServiceRange: the range of cluster IPs is an object, ready.
func TestServiceRange(t *testing.T) {
	h := start(t)
	r, err := h.clients(t, runtime.ContentTypeJSON).NetworkingV1().ServiceCIDRs().Get(t.Context(), "kubernetes", metav1.GetOptions{})
	must(t, err)
	if len(r.Spec.CIDRs) != 1 || r.Spec.CIDRs[0] != "10.96.0.0/24" || !meta.IsStatusConditionTrue(r.Status.Conditions, "Ready") {
		t.Errorf("%+v", r)
	}
}

// TestPodRightAfterItsNamespace: a pod waits for the account that a controller
// gives its namespace, and not for any other.
func TestPodRightAfterItsNamespace(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	made := make(chan error, 1)
	go func() {
		_, err := cs.CoreV1().Pods("default").Create(ctx, podNamed("p"), metav1.CreateOptions{})
		made <- err
	}()
	select {
	case err := <-made:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	account(t, cs, "default")
	must(t, <-made)
	other := podNamed("q")
	other.Spec.ServiceAccountName = "none"
	if _, err := cs.CoreV1().Pods("default").Create(ctx, other, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `"none" not found`) {
		t.Error(err)
	}
}

// TestContinueTokenExpires: five minutes after its first page a list goes on only
// inconsistently, by the token that the refusal brings.
func TestContinueTokenExpires(t *testing.T) {
	var late atomic.Bool
	h := start(t, func(c *apiserver.Config) {
		c.Now = func() time.Time {
			if late.Load() {
				return time.Now().Add(6 * time.Minute)
			}
			return time.Now()
		}
	})
	ctx, maps := t.Context(), h.clients(t, runtime.ContentTypeJSON).CoreV1().ConfigMaps("default")
	for _, name := range []string{"a", "b", "c"} {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		must(t, err)
	}
	first, err := maps.List(ctx, metav1.ListOptions{Limit: 1})
	must(t, err)
	_, err = maps.List(ctx, metav1.ListOptions{Limit: 1, Continue: first.Continue})
	must(t, err)
	late.Store(true)
	_, err = maps.List(ctx, metav1.ListOptions{Limit: 1, Continue: first.Continue})
	var refusal apierrors.APIStatus
	if !apierrors.IsResourceExpired(err) || !errors.As(err, &refusal) {
		t.Fatalf("want 410, have %v", err)
	}
	second, err := maps.List(ctx, metav1.ListOptions{Limit: 1, Continue: refusal.Status().Continue})
	must(t, err)
	third, err := maps.List(ctx, metav1.ListOptions{Limit: 1, Continue: second.Continue})
	must(t, err)
	if second.Items[0].Name != "b" || third.Items[0].Name != "c" || third.ResourceVersion != second.ResourceVersion || third.Continue != "" {
		t.Errorf("went on with %v and %v", second, third)
	}
}
