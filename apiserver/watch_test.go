package apiserver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/auth"
	"proa/client"
	"proa/store"
)

type event struct {
	Type   string
	Object struct {
		Kind     string
		Reason   string
		Code     int
		Metadata metav1.ObjectMeta
	}
}

func (e event) String() string {
	if e.Type == "ERROR" {
		return fmt.Sprint("ERROR ", e.Object.Code)
	}
	s := e.Type + " " + e.Object.Metadata.Name
	if e.Object.Metadata.Annotations[metav1.InitialEventsAnnotationKey] == "true" {
		s += "end"
	}
	return strings.TrimSpace(s)
}

// watch reads a watch to its end and returns its events in words.
func (h *harness) watch(t *testing.T, query string) []string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.http.URL+"/api/v1/namespaces/default/configmaps?watch=true&"+query, nil)
	must(t, err)
	r.Header.Set("Authorization", "Bearer root")
	resp, err := h.http.Client().Do(r)
	must(t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return []string{resp.Status}
	}
	var out []string
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		var e event
		must(t, json.Unmarshal(lines.Bytes(), &e))
		out = append(out, e.String())
	}
	return out
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// TestWhereAWatchBegins goes through the revisions that a watch may name.
func TestWhereAWatchBegins(t *testing.T) {
	h := start(t)
	c := h.Client(auth.System("test"))
	row := api.Builtin().ByKey("configmaps")
	var first client.Object
	for _, name := range []string{"a", "b", "c"} {
		made, err := c.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"n": name}}})
		must(t, err)
		if first == nil {
			first = made
		}
	}
	must(t, c.Delete(t.Context(), row, client.Key{Namespace: "default", Name: "b"}, metav1.DeleteOptions{}))
	same(t, "no revision", h.watch(t, "timeoutSeconds=1"), "ADDED a", "ADDED c")
	same(t, "revision 0", h.watch(t, "timeoutSeconds=1&resourceVersion=0"), "ADDED a", "ADDED c")
	same(t, "after the first", h.watch(t, "timeoutSeconds=1&resourceVersion="+first.GetResourceVersion()), "ADDED b", "ADDED c", "DELETED b")
	same(t, "selected", h.watch(t, "timeoutSeconds=1&labelSelector=n%3Dc"), "ADDED c")
	same(t, "by name", h.watch(t, "timeoutSeconds=1&fieldSelector=metadata.name%3Da"), "ADDED a")
	same(t, "initial events", h.watch(t, "timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"),
		"ADDED a", "ADDED c", "BOOKMARK end")
	same(t, "none wanted", h.watch(t, "timeoutSeconds=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"))
	same(t, "without a match", h.watch(t, "sendInitialEvents=true"), "422 Unprocessable Entity")
}

// TestWatchTooOld asks for history that is gone.
func TestWatchTooOld(t *testing.T) {
	h := startStore(t, store.Config{HistoryEvents: 4})
	h.fill(t, 20)
	if got := h.watch(t, "resourceVersion=1"); len(got) != 1 || got[0] != "410 Gone" && got[0] != "ERROR 410" {
		t.Errorf("got %v, want 410", got)
	}
}

// TestBookmarkAtTheEnd: a watch that saw nothing says how far it is before its
// time is up, so that the client can go on from there.
func TestBookmarkAtTheEnd(t *testing.T) {
	h := start(t)
	c := h.Client(auth.System("test"))
	time.AfterFunc(200*time.Millisecond, func() {
		_, _ = c.Create(context.Background(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "elsewhere"}})
	})
	same(t, "elsewhere", h.watch(t, "timeoutSeconds=1&allowWatchBookmarks=true"), "BOOKMARK")
}

// TestStreamInProcess checks what a component sees: the shared objects, filtered
// by its scopes, deletions by their last state.
func TestStreamInProcess(t *testing.T) {
	h := start(t)
	ctx, c := t.Context(), h.Client(auth.System("system:serviceaccount:kube-system:test-controller"))
	pods := api.Builtin().ByKey("pods")
	_, err := c.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}})
	must(t, err)
	_, stream, err := c.Watch(ctx, client.Scope{Resource: pods, FieldSelector: "spec.nodeName=n1"})
	must(t, err)
	defer stream.Close()
	p := podNamed("p")
	p.Namespace = "default"
	made, err := c.Create(ctx, p)
	must(t, err)
	if made.GetManagedFields()[0].Manager != "test-controller" {
		t.Errorf("manager: %s", made.GetManagedFields()[0].Manager)
	}
	key := client.KeyOf(made)
	_, err = c.Post(ctx, pods, key, "binding", &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}})
	must(t, err)
	events, view, err := stream.Next(ctx)
	must(t, err)
	if len(events) != 1 || events[0].Old != nil || events[0].New == nil {
		t.Fatalf("a pod that comes to the node: %+v", events)
	}
	if view.Get(pods, "default", "p") != events[0].New {
		t.Error("the view and the event do not share the object")
	}
	must(t, c.Delete(ctx, pods, key, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	events, view, err = stream.Next(ctx)
	must(t, err)
	if len(events) != 1 || events[0].New != nil || events[0].Old == nil || view.Get(pods, "default", "p") != nil {
		t.Fatalf("a pod that goes: %+v", events)
	}
}

// TestStreamThatFellBehind: a component that was away while the history went on
// gets the differences, deletions too.
func TestStreamThatFellBehind(t *testing.T) {
	h := startStore(t, store.Config{HistoryEvents: 4})
	h.fill(t, 3)
	ctx, c := t.Context(), h.Client(auth.System("test"))
	row := h.row("configmaps")
	_, stream, err := c.Watch(ctx, client.Scope{Resource: row, Namespace: "default"})
	must(t, err)
	defer stream.Close()
	must(t, c.Delete(ctx, row, client.Key{Namespace: "default", Name: "filled-00001"}, metav1.DeleteOptions{}))
	for i := range 20 {
		_, err := c.Patch(ctx, row, client.Key{Namespace: "default", Name: "filled-00002"}, "", client.Patch{
			Type: "application/merge-patch+json", Data: fmt.Appendf(nil, `{"data":{"n":"%d"}}`, i),
		})
		must(t, err)
	}
	_, err = c.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "late"}})
	must(t, err)
	events, _, err := stream.Next(ctx)
	must(t, err)
	got := map[string]string{}
	for _, e := range events {
		switch {
		case e.Old == nil:
			got[e.New.GetName()] = "added"
		case e.New == nil:
			got[e.Old.GetName()] = "deleted"
		default:
			got[e.New.GetName()] = "modified"
		}
	}
	want := map[string]string{"filled-00001": "deleted", "filled-00002": "modified", "late": "added"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
