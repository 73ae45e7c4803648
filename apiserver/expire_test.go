package apiserver_test

import (
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/apiserver"
	"proa/auth"
	"proa/client"
)

// TestOldEventsGo starts with an event of two hours ago and one of now.
func TestOldEventsGo(t *testing.T) {
	var ago atomic.Int64
	ago.Store(int64(2 * time.Hour))
	h := start(t, func(c *apiserver.Config) {
		c.Now = func() time.Time { return time.Now().Add(-time.Duration(ago.Load())) }
	})
	c := h.Client(auth.System("test"))
	_, stream, err := c.Watch(t.Context(), client.Scope{Resource: h.row("events")})
	must(t, err)
	defer stream.Close()
	make := func(name string) {
		_, err := c.Create(t.Context(), &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Reason: "Tested", Type: "Normal",
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"},
		})
		must(t, err)
	}
	make("old")
	ago.Store(0)
	make("new")
	for deleted := ""; deleted != "old"; {
		events, view, err := stream.Next(t.Context())
		must(t, err)
		for _, e := range events {
			if e.New == nil {
				deleted = e.Old.GetName()
				if view.Get(h.row("events"), "default", "new") == nil {
					t.Error("the new event went, too")
				}
			}
		}
	}
}
