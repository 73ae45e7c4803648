package apiserver_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/apiserver"
	"proa/auth"
	"proa/client"
	"proa/store"
)

// TestOldEventsGo starts with an event of two hours ago and one of now: as soon as
// the first is there, it is two hours later.
func TestOldEventsGo(t *testing.T) {
	h := start(t, func(c *apiserver.Config) {
		st := c.Store
		c.Now = func() time.Time {
			if st.Snapshot().Get(store.Key{Resource: "events", Namespace: "default", Name: "old"}) == nil {
				return time.Now().Add(-2 * time.Hour)
			}
			return time.Now()
		}
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
