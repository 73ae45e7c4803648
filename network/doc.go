// Package network gives pods their addresses and links, over netlink, and the
// node its routes to them.
//
// What it promises:
//   - A pod has an address of the node's pod CIDR that nobody else has, on
//     eth0, and reaches every pod and the node without address translation;
//     what leaves the cluster carries the node's address.
//   - Attach and Detach are idempotent, and what they acknowledged survives a
//     crash at any moment; what a crash left half done is undone by the next
//     Attach, Detach or Reconcile of that pod.
//   - An address that was given back rests as long as the CIDR allows before
//     it is given out again.
//   - Cleanup leaves no link, route, rule or table of ours.
package network
