package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/client/clienttest"
)

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "uid-" + "x"}}
}

// running runs fn with a recorder in a bubble of its own time, and returns the
// Events that are stored in the end.
func running(t *testing.T, c *clienttest.Client, fn func(r *Recorder)) (stored []*corev1.Event) {
	synctest.Test(t, func(t *testing.T) {
		r := New(c, "tester", "node-1", slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		fn(r)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		stored = slices.Collect(client.List[corev1.Event](c.View(), ""))
	})
	return stored
}

func TestEventSaysWhoAndWhat(t *testing.T) {
	stored := running(t, clienttest.New(), func(r *Recorder) {
		r.Eventf(pod("a"), corev1.EventTypeNormal, "Pulled", "image %q", "x")
		r.Event(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}, corev1.EventTypeWarning, "Odd", "m")
		r.For("other").Event(pod("a"), corev1.EventTypeNormal, "Seen", "m")
	})
	if len(stored) != 3 {
		t.Fatalf("stored %d events, want 3", len(stored))
	}
	byReason := map[string]*corev1.Event{}
	for _, e := range stored {
		byReason[e.Reason] = e
	}
	e := byReason["Pulled"]
	if e.Namespace != "ns" || e.InvolvedObject.Kind != "Pod" || e.InvolvedObject.APIVersion != "v1" || e.Message != `image "x"` ||
		e.Source != (corev1.EventSource{Component: "tester", Host: "node-1"}) || e.ReportingController != "tester" || e.Count != 1 {
		t.Errorf("unexpected event %+v", e)
	}
	if n := byReason["Odd"].Namespace; n != "default" {
		t.Errorf("an event about a node is in namespace %q, want default", n)
	}
	if s := byReason["Seen"].Source.Component; s != "other" {
		t.Errorf("component %q, want other", s)
	}
}

func TestRepetitionRaisesCount(t *testing.T) {
	stored := running(t, clienttest.New(), func(r *Recorder) {
		for range 5 {
			r.Event(pod("a"), corev1.EventTypeWarning, "BackOff", "restarting")
			time.Sleep(time.Minute)
		}
	})
	if len(stored) != 1 || stored[0].Count != 5 {
		t.Fatalf("got %d events, want one of count 5: %+v", len(stored), stored)
	}
	if d := stored[0].LastTimestamp.Sub(stored[0].FirstTimestamp.Time); d != 4*time.Minute {
		t.Errorf("first to last is %v, want 4m", d)
	}
}

func TestSimilarEventsAreCombined(t *testing.T) {
	stored := running(t, clienttest.New(), func(r *Recorder) {
		for i := range 20 {
			r.Event(pod("a"), corev1.EventTypeNormal, "Tick", fmt.Sprint("tick ", i))
			time.Sleep(time.Millisecond)
		}
	})
	if len(stored) != 10 {
		t.Errorf("20 similar events became %d, want 10", len(stored))
	}
}

func TestSpamIsHeld(t *testing.T) {
	stored := running(t, clienttest.New(), func(r *Recorder) {
		for i := range 100 {
			r.Event(pod("a"), corev1.EventTypeNormal, fmt.Sprint("Reason", i), "m")
		}
	})
	if len(stored) != 25 {
		t.Errorf("100 events about one object became %d, want the burst of 25", len(stored))
	}
}

func TestNeverBlocksAndFlushes(t *testing.T) {
	c := clienttest.New()
	stored := running(t, c, func(r *Recorder) {
		for i := range 3 * queueLength {
			r.Event(pod(fmt.Sprint("p", i)), corev1.EventTypeNormal, "R", "m")
		}
		if r.Dropped() == 0 {
			t.Error("nothing was dropped although nobody could write")
		}
	})
	if len(stored) < queueLength {
		t.Errorf("%d events were flushed, want %d or more", len(stored), queueLength)
	}
}

func TestUnreachableServerIsTriedAgainAndRefusalIsNot(t *testing.T) {
	c, tries := clienttest.New(), 0
	c.Fault = func(verb string, obj client.Object, _ string) error {
		tries++
		e := obj.(*corev1.Event)
		if e.Reason == "Refused" {
			return apierrors.NewForbidden(client.Row[corev1.Event]().GR(), e.Name, errors.New("terminating"))
		}
		if tries < 4 {
			return errors.New("connection refused")
		}
		return nil
	}
	stored := running(t, c, func(r *Recorder) {
		r.Event(pod("a"), corev1.EventTypeNormal, "R", "m")
		time.Sleep(time.Minute)
		r.Event(pod("a"), corev1.EventTypeNormal, "Refused", "m")
		time.Sleep(time.Minute)
	})
	if len(stored) != 1 || tries != 5 {
		t.Errorf("stored %d after %d tries, want 1 after 5", len(stored), tries)
	}
}
