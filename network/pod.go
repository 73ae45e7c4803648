package network

import "net/netip"

// Pod is a sandbox that wants a network. Its types are plain, so that the
// runtime can hand it over without either package knowing the other.
type Pod struct {
	// ID is the sandbox's; addresses and links are kept under it.
	ID string
	// Namespace, Name and UID are the API object's.
	Namespace, Name, UID string
	// NetNS is the path of the network namespace (/proc/<pid>/ns/net or a
	// bind mount of it). Detach works without it, too.
	NetNS string
	// Ports are those with a host port; others need nothing.
	Ports []Port
	// Ingress and Egress limit the pod's bandwidth, in bit/s; 0 is no limit.
	Ingress, Egress int64
}

// Port is one hostPort mapping.
type Port struct {
	// Protocol is TCP, UDP or SCTP.
	Protocol string
	// Container and Host are port numbers, 1 to 65535.
	Container, Host uint16
	// HostIP limits the mapping to one address of the node; the zero Addr and
	// an unspecified one stand for all of them.
	HostIP netip.Addr
}

// Result is what a pod got.
type Result struct {
	// IPs are the pod's addresses, at most one a family; the first is the
	// primary (status.podIP).
	IPs []netip.Addr
}
