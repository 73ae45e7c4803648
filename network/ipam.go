package network

import (
	"fmt"
	"net/netip"
)

// pool hands out the addresses of one prefix in turn, so that one which was
// given back rests while all others are used: what still remembers it (a
// client's connection, a stale DNS answer) should not meet another pod there.
type pool struct {
	prefix netip.Prefix
	next   netip.Addr
	used   map[netip.Addr]string // address → pod ID
}

func newPool(p netip.Prefix) *pool {
	pool := &pool{prefix: p.Masked(), used: map[netip.Addr]string{}}
	pool.next = pool.first()
	return pool
}

// first is the lowest address given to pods. The two below are the prefix's
// own and the node's end of the tunnel to other nodes.
func (p *pool) first() netip.Addr {
	if p.prefix.Addr().BitLen()-p.prefix.Bits() < 3 {
		return p.prefix.Addr()
	}
	return p.prefix.Addr().Next().Next()
}

// after is the address to try after a: the lowest again at the end. The last
// address of an IPv4 prefix is left out, as hosts may take it for a broadcast.
func (p *pool) after(a netip.Addr) netip.Addr {
	n := a.Next()
	small := p.prefix.Addr().BitLen()-p.prefix.Bits() < 3
	if !p.prefix.Contains(n) || (n.Is4() && !small && !p.prefix.Contains(n.Next())) {
		return p.first()
	}
	return n
}

func (p *pool) allocate(id string) (netip.Addr, error) {
	for a := p.next; ; {
		if _, taken := p.used[a]; !taken {
			p.used[a] = id
			p.next = p.after(a)
			return a, nil
		}
		if a = p.after(a); a == p.next {
			return netip.Addr{}, fmt.Errorf("no address is left in the node's pod CIDR %s: all %d are in use", p.prefix, len(p.used))
		}
	}
}

func (p *pool) take(a netip.Addr, id string) { p.used[a] = id }
func (p *pool) free(a netip.Addr)            { delete(p.used, a) }

// resume goes on where an earlier run stood, if that is in this prefix.
func (p *pool) resume(a netip.Addr) {
	if a.IsValid() && p.prefix.Contains(a) && !a.Less(p.first()) {
		p.next = a
	}
}
