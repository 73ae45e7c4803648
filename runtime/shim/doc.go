// Package shim is a pod's own process: its sandbox, the parent of its
// containers, the keeper of their streams and of how they ended.
//
// What it promises:
//   - It lives in the pod's network, IPC and UTS namespaces and so keeps them.
//   - It outlives the daemon, takes any number of daemons one after another, and
//     tells each what happened before it came.
//   - A container's exit is in a file of the run directory before anyone is told.
//   - Output never waits for a reader: what the log or an attached client cannot
//     take is dropped, the container goes on.
//   - If it dies, its containers die with it (PR_SET_PDEATHSIG).
//
// Idle it sleeps: no timers, no polling, and next to no memory of its own.
//
// Only cmd/proa-shim links this package, and with it libcontainer.
package shim
