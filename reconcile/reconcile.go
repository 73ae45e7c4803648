// Package reconcile is the one contract of all controllers and the loop that
// runs them.
//
// A controller is a pure decision: from a key and the world at one revision to
// a Plan of writes. The loop watches, queues keys (each at most once, one worker
// a key at a time), calls the decision, applies the plan in order and, when a
// write fails, tries the key again with back-off. A decision is level-triggered:
// it sees what is, never what happened, and running it twice changes nothing.
//
// The View that a decision gets holds everything that the loop's client has
// written before (client.Client promises that), so decisions need no memory of
// what they asked for.
package reconcile

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/client"
)

// Controller is one controller.
type Controller struct {
	// Name is the controller's name as upstream reports it in events and metrics
	// ("deployment-controller").
	Name string
	// Source is what its events name as their source, where that is not Name.
	Source string
	// Watches say which changes wake which keys.
	Watches []Watch
	// Workers is how many keys may be decided at once; 0 means 1.
	Workers int
	// Pace keeps the starts of two decisions about one key this far apart, for
	// decisions that look at much and are woken by every part of it. The first
	// is not held up. 0 is no pace.
	Pace time.Duration
	// Decide is pure: no I/O, no clock but now, nothing kept between calls.
	Decide func(v client.View, now time.Time, key client.Key) Plan
}

// Watch wakes the keys that Keys names for each event of a resource; nil Keys
// wakes the changed object's own key. Keys sees the world after the event; at
// the start it is called with an addition for every object that exists.
//
// A nil Resource stands for every resource, also one that is added while the
// loop runs.
type Watch struct {
	Resource *api.Resource
	Keys     func(v client.View, e client.Event) []client.Key
}

// Plan is what a decision wants done. The zero Plan is "all is as it should be".
type Plan struct {
	// Writes are applied in order; the first that fails ends the attempt. A
	// conflict, an already-exists or a not-found means that the world moved on:
	// the key is decided again at once, without an error being reported. A
	// delete of what is gone has succeeded; a create that is refused because
	// its namespace is being deleted ends the attempt for good.
	Writes []Write
	// Parallel lets the loop apply neighbouring creates, deletes, or updates of
	// the objects themselves, of one resource several at a time (pods of a large
	// ReplicaSet). Each must be of another object. Creates start
	// slowly, 1, 2, 4, ... at a time, so that a quota that refuses one is not
	// asked for all.
	Parallel bool
	// Events are recorded when all writes succeeded.
	Events []Event
	// After asks to be called again in that time even if nothing changes; 0
	// means only on change. It replaces what an earlier decision asked for.
	After time.Duration
	// Err reports that the decision cannot be made (bad spec, missing object):
	// the key is tried again with back-off.
	Err error
}

// Op is a kind of write.
type Op uint8

const (
	Create Op = iota + 1
	Update
	Delete
	Post
)

// Write is one request to the API. For Update, Object carries the
// resourceVersion that was read. For Delete, Object names the victim and its
// UID is the precondition.
type Write struct {
	Op          Op
	Object      client.Object
	Subresource string
	Body        client.Object // for Post
	Delete      metav1.DeleteOptions
	// OnError, if set, turns a failure into events or a status write that the
	// user should see (FailedCreate); the key is still tried again. Of several
	// Parallel writes that fail together, the writes of the first are applied.
	OnError func(err error) Plan
	// OnDone, likewise, says what to report once it succeeded
	// (SuccessfulCreate names the generated name).
	OnDone func(result client.Object) []Event
	// Optional marks a write whose failure must not stop those after it; the
	// key is tried again when they are done.
	Optional bool
}

// Event is a corev1.Event to be recorded about an object; the loop's recorder
// aggregates repetitions as upstream does.
type Event struct {
	Regarding client.Object
	Type      string // corev1.EventTypeNormal or Warning
	Reason    string
	Message   string
}

// Normal and Warning make events.
func Normal(obj client.Object, reason, message string) Event {
	return Event{Regarding: obj, Type: corev1.EventTypeNormal, Reason: reason, Message: message}
}

func Warning(obj client.Object, reason, message string) Event {
	return Event{Regarding: obj, Type: corev1.EventTypeWarning, Reason: reason, Message: message}
}
