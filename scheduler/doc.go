// Package scheduler chooses a node for each pod that has none.
//
// The choice is pure: the state of the cluster and one pod go in, a node or an
// explanation per node comes out (cluster.decide), and where nothing is free, a
// set of victims whose going would make room (cluster.preempt). Around it are a
// cache folded from the client's event stream, a priority queue with back-off,
// and the writes: bindings, conditions, evictions.
//
// What it promises:
//   - A node is never given more than it has, nor a pod a node that its
//     constraints forbid, as far as the events seen so far tell.
//   - A decision counts at once: the next pod is decided as if the binding of
//     the one before had been acknowledged. Bindings run concurrently.
//   - A pod that fits nowhere waits until something changes that can help it.
//     Nothing polls.
//   - Its explanations, events and conditions read as Kubernetes' own.
package scheduler
