package kubelet

import (
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// exit returns a channel that is closed once the instance has ended, and a
// function to be called when nobody waits for it any more.
func (w *worker) exit(id string) (<-chan struct{}, func()) {
	ch := make(chan struct{})
	if !w.post(func(w *worker) {
		w.waiters = append(w.waiters, waiter{id, ch})
		w.wakeWaiters(false)
	}) {
		close(ch)
	}
	return ch, func() {
		w.post(func(w *worker) { w.dropWaiter(ch) })
	}
}

type waiter struct {
	id string
	ch chan struct{}
}

// wakeWaiters tells those whose instance runs no more; all of them when the
// worker stops.
func (w *worker) wakeWaiters(all bool) {
	running := map[string]bool{}
	for _, c := range w.st.Containers {
		running[c.Id] = c.State == cri.ContainerState_CONTAINER_RUNNING
	}
	kept := w.waiters[:0]
	for _, one := range w.waiters {
		if all || !running[one.id] {
			close(one.ch)
		} else {
			kept = append(kept, one)
		}
	}
	w.waiters = kept
}

func (w *worker) dropWaiter(ch chan struct{}) {
	for i, one := range w.waiters {
		if one.ch == ch {
			w.waiters = append(w.waiters[:i], w.waiters[i+1:]...)
			return
		}
	}
}
