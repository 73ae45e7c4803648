package nft

import (
	"fmt"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Pick sends a connection to an endpoint of the group that the packet's fields
// belong to, chosen at random.
//
// A group's endpoints have the indexes 0 to n-1. The kernel can draw a random
// number below a constant only, so a rule fits all groups whose size rounds up
// to the same power of two, Slots: it draws below that, and when there is no
// such endpoint the next rule draws again. So a group may gain or lose an
// endpoint without a change of any rule, and rules are as few as there are
// powers of two, which matters: what the kernel does to add one element grows
// with the number of rules that use the map.
type Pick struct {
	Family    Family
	Key       []Field
	Groups    string // map: Key → group
	Endpoints string // map: group . index → address . port
	Slots     int
	// With a Timeout, a client's address sticks to its endpoint until it did
	// not connect for so long.
	Timeout time.Duration
	Clients string // map: group . client → address . port, with timeouts
	Serving string // set: group . address . port
}

// draws is how often it is drawn before the first endpoint is taken. With half
// the slots empty, which is the worst but for a single endpoint, one connection
// in 64 comes to that.
const draws = 6

// Rules are the rules, to be gone through in order.
func (p Pick) Rules() []Rule {
	var out []Rule
	if p.Timeout > 0 {
		out = append(out, Rule{p.again()})
	}
	if p.Slots > 1 {
		for range draws {
			out = append(out, Rule{p.draw(fmt.Sprintf("numgen random mod %d", p.Slots), &expr.Numgen{
				Register: reg(regIndex), Modulus: uint32(p.Slots), Type: unix.NFT_NG_RANDOM})})
		}
	}
	return append(out, Rule{p.draw("0", &expr.Immediate{Register: reg(regIndex), Data: NumberBytes(0)})})
}

// Registers: the group and the client's address; the group again right before
// the index, or right before the target; and the target, where the packet's
// fields are as long as they are needed.
const (
	regClient = 0
	regGroup  = 6
	regIndex  = 7
	regBefore = 7
)

// draw takes the endpoint at an index, if there is one.
func (p Pick) draw(text string, index expr.Any) Stmt {
	fields, steps := key(regTarget, p.Key...)
	steps = append(steps, get(p.Groups, regTarget, regGroup))
	if p.Timeout > 0 {
		steps = append(steps, get(p.Groups, regTarget, regClient), p.Family.Saddr().load(regClient+1))
	}
	steps = append(steps, index, get(p.Endpoints, regGroup, regTarget))
	out := fmt.Sprintf("dnat %s to %s map @%s . %s map @%s", p.Family, fields, p.Groups, text, p.Endpoints)
	if p.Timeout > 0 {
		// Refreshing an element would keep its data, so the old one goes first.
		steps = append(steps, p.remember(dynsetDelete), p.remember(unix.NFT_DYNSET_OP_UPDATE))
		out += fmt.Sprintf(" update @%s timeout %s", p.Clients, p.Timeout)
	}
	return Stmt{out, append(steps, p.Family.dnat())}
}

// again takes the endpoint that the client had last, if that still serves.
func (p Pick) again() Stmt {
	fields, steps := key(regTarget, p.Key...)
	steps = append(steps,
		get(p.Groups, regTarget, regBefore), get(p.Groups, regTarget, regClient),
		p.Family.Saddr().load(regClient+1), get(p.Clients, regClient, regTarget),
		&expr.Lookup{SourceRegister: reg(regBefore), SetName: p.Serving},
		p.remember(unix.NFT_DYNSET_OP_UPDATE), p.Family.dnat())
	return Stmt{fmt.Sprintf("dnat %s to %s map @%s . %s map @%s in @%s timeout %s",
		p.Family, fields, p.Groups, p.Family.Saddr().text, p.Clients, p.Serving, p.Timeout), steps}
}

const dynsetDelete = 2 // NFT_DYNSET_OP_DELETE

func (p Pick) remember(op uint32) expr.Any {
	e := &expr.Dynset{SrcRegKey: reg(regClient), SrcRegData: reg(regTarget), SetName: p.Clients, Operation: op}
	if op == unix.NFT_DYNSET_OP_UPDATE {
		e.Timeout = p.Timeout
	}
	return e
}
