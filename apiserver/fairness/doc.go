// Package fairness is the API's priority and fairness (KEP-1040, APIs in
// flowcontrol.apiserver.k8s.io/v1): it decides which requests run now, which
// wait in which queue and which are refused, so that a client that floods the
// server takes its own share and nobody else's.
//
// It promises:
//   - No priority level is kept from its nominal seats for longer than requests
//     that run already take; what a level does not use others may borrow, as far
//     as it lends and they may.
//   - Within a level, flows get seat-seconds in equal parts, whatever each one
//     asks for. Which flows share a queue is chosen by a keyed hash that no
//     client can predict.
//   - A request waits or is refused, never both without an answer: queues are
//     bounded in length and in time.
//   - Nothing runs in the background for it but the reaction to changes of its
//     objects, which are kept by upstream's rules.
//
// The decisions (dispatcher, queues, matching) are pure: they hold no
// goroutine and know the time only as an argument.
package fairness
