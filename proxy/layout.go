package proxy

import (
	"hash/fnv"
	"net/netip"
	"slices"
)

// Layout remembers where endpoints were put, so that a change moves as little
// as it can: a group of endpoints keeps its number, and an endpoint its index.
type Layout struct {
	numbers map[string]uint32
	names   map[uint32]string
	order   map[uint32][]netip.AddrPort
}

// NewLayout remembers nothing yet.
func NewLayout() *Layout {
	return &Layout{numbers: map[string]uint32{}, names: map[uint32]string{}, order: map[uint32][]netip.AddrPort{}}
}

// group is the number of the named group. It follows from the name, so that it
// is mostly the same in the next run and clients keep their affinity.
func (l *Layout) group(name string) uint32 {
	if n, ok := l.numbers[name]; ok {
		return n
	}
	h := fnv.New32a()
	h.Write([]byte(name))
	n := h.Sum32()
	for {
		if _, taken := l.names[n]; !taken {
			break
		}
		n++
	}
	l.numbers[name], l.names[n] = n, name
	return n
}

// forget gives a group's number free.
func (l *Layout) forget(name string) {
	if n, ok := l.numbers[name]; ok {
		delete(l.numbers, name)
		delete(l.names, n)
		delete(l.order, n)
	}
}

// arrange puts endpoints in an order that differs from the last in as few
// places as possible: who left is replaced by who came, then by the last ones.
func (l *Layout) arrange(group uint32, want []netip.AddrPort) []netip.AddrPort {
	wanted := make(map[netip.AddrPort]bool, len(want))
	for _, a := range want {
		wanted[a] = true
	}
	old := l.order[group]
	next := make([]netip.AddrPort, 0, len(want))
	var free []int
	for i, a := range old {
		if !wanted[a] {
			free = append(free, i)
		}
		delete(wanted, a)
		next = append(next, a)
	}
	for _, a := range want {
		switch {
		case !wanted[a]:
		case len(free) > 0:
			next[free[0]], free = a, free[1:]
		default:
			next = append(next, a)
		}
	}
	for _, i := range slices.Backward(free) {
		last := len(next) - 1
		next[i] = next[last]
		next = next[:last]
	}
	l.order[group] = next
	return next
}
