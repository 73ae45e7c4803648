package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"proa/internal/nft"
)

// state is what the kernel holds, as far as it depends on Services.
type state struct {
	blocks map[string]*Block
	held   map[elementKey]*holding
}

func newState() *state {
	return &state{blocks: map[string]*Block{}, held: map[elementKey]*holding{}}
}

type elementKey struct{ set, key string }

// holding is one element and who wants it. Services share some (a pod behind
// two of them) and contend for others (an external address and port); the first
// to claim one has it until it lets go.
type holding struct {
	claims []claim
}

type claim struct {
	service string
	element nft.Element
}

func (h *holding) inForce() *nft.Element {
	if h == nil || len(h.claims) == 0 {
		return nil
	}
	return &h.claims[0].element
}

// Changes turns one state of the table into another, in one transaction.
type Changes struct {
	AddChains  []Chain // new ones
	Rewrite    []Chain // those whose rules are replaced
	DelChains  []string
	Del, Add   []Element
	touched    map[elementKey]*nft.Element // what was in force before, nil if nothing
	moved      map[netip.Addr]int          // by how much the number of targets at an address changed
	stale      staleFlows
	contention []string
}

func newChanges() *Changes {
	return &Changes{
		touched: map[elementKey]*nft.Element{}, moved: map[netip.Addr]int{},
		stale: staleFlows{endpoints: map[netip.AddrPort]bool{}, frontends: map[netip.AddrPort]bool{}},
	}
}

// replace makes next the block of a Service, nil to end it.
func (s *state) replace(service string, next *Block, ch *Changes) {
	old := s.blocks[service]
	if old == nil {
		old = &Block{}
	}
	delete(s.blocks, service)
	if next != nil {
		s.blocks[service] = next
	} else {
		next = &Block{}
	}
	ch.chains(old, next)
	s.claims(service, old, next, ch)
	ch.flows(old, next)
}

func (ch *Changes) chains(old, next *Block) {
	had := map[string]string{}
	for _, c := range old.Chains {
		had[c.Name] = c.Text
	}
	for _, c := range next.Chains {
		was, known := had[c.Name]
		delete(had, c.Name)
		switch {
		case !known:
			ch.AddChains = append(ch.AddChains, c)
		case was != c.Text:
			ch.Rewrite = append(ch.Rewrite, c)
		}
	}
	for name := range had {
		ch.DelChains = append(ch.DelChains, name)
	}
}

func (s *state) claims(service string, old, next *Block, ch *Changes) {
	want := make(map[Element]bool, len(next.Elements))
	for _, e := range next.Elements {
		want[e] = true
	}
	for _, e := range old.Elements {
		if want[e] {
			delete(want, e)
			continue
		}
		s.release(service, e, ch)
	}
	for _, e := range next.Elements {
		if want[e] {
			s.claim(service, e, ch)
		}
	}
}

func (s *state) release(service string, e Element, ch *Changes) {
	k := elementKey{e.Set, e.Key}
	h := s.held[k]
	ch.touch(k, h)
	h.claims = slices.DeleteFunc(h.claims, func(c claim) bool { return c.service == service })
	if len(h.claims) == 0 {
		delete(s.held, k)
	}
}

func (s *state) claim(service string, e Element, ch *Changes) {
	k := elementKey{e.Set, e.Key}
	h := s.held[k]
	ch.touch(k, h)
	if h == nil {
		h = &holding{}
		s.held[k] = h
	}
	h.claims = append(h.claims, claim{service, e.Element})
	if first := h.claims[0]; first.element != e.Element {
		ch.contention = append(ch.contention, fmt.Sprintf("%s: %s has it, %s wants it", e, first.service, service))
	}
}

func (ch *Changes) touch(k elementKey, h *holding) {
	if _, done := ch.touched[k]; done {
		return
	}
	ch.touched[k] = nil
	if e := h.inForce(); e != nil {
		was := *e
		ch.touched[k] = &was
	}
}

// flows notes what targets came and left, and of UDP what the kernel's memory
// of flows gets wrong by that: endpoints that left and addresses that are
// served from now on.
func (ch *Changes) flows(old, next *Block) {
	ch.count(old.Targets, -1)
	ch.count(next.Targets, 1)
	for _, t := range old.Targets {
		if t.Proto == udp && !slices.ContainsFunc(next.Targets, func(o Target) bool { return o.Addr == t.Addr && o.Proto == udp }) {
			ch.stale.endpoints[t.Addr] = true
		}
	}
	for _, f := range next.Frontends {
		if !slices.Contains(old.Frontends, f) {
			ch.stale.frontends[f] = true
		}
	}
}

func (ch *Changes) count(targets []Target, by int) {
	for _, t := range targets {
		if !t.Terminating {
			ch.moved[t.Addr.Addr()] += by
		}
	}
}

// settle finds out which elements differ in the end.
func (ch *Changes) settle(s *state) {
	for k, was := range ch.touched {
		now := s.held[k].inForce()
		if was != nil && now != nil && *was == *now {
			continue
		}
		if was != nil {
			ch.Del = append(ch.Del, Element{k.set, nft.Element{Key: was.Key}})
		}
		if now != nil {
			ch.Add = append(ch.Add, Element{k.set, *now})
		}
	}
	clear(ch.touched)
	slices.SortFunc(ch.Del, Element.compare)
	slices.SortFunc(ch.Add, Element.compare)
	slices.Sort(ch.DelChains)
}

// Empty tells that the kernel needs to do nothing.
func (ch *Changes) Empty() bool {
	return len(ch.AddChains)+len(ch.Rewrite)+len(ch.DelChains)+len(ch.Del)+len(ch.Add) == 0
}

// write puts the changes into a transaction, in an order in which nothing
// refers to what is not there.
func (ch *Changes) write(b *nft.Batch) {
	for _, c := range ch.AddChains {
		b.AddChain(c.Name, c.Hook)
	}
	for _, c := range ch.Rewrite {
		b.FlushChain(c.Name)
	}
	for _, c := range slices.Concat(ch.AddChains, ch.Rewrite) {
		for _, r := range c.Rules {
			b.AddRule(c.Name, r)
		}
	}
	bySet(ch.Del, b.DelElements)
	bySet(ch.Add, b.AddElements)
	for _, name := range ch.DelChains {
		b.FlushChain(name)
	}
	for _, name := range ch.DelChains {
		b.DelChain(name)
	}
}

// bySet calls f with each set's run of the ordered elements.
func bySet(elems []Element, f func(set string, elems ...nft.Element)) {
	for len(elems) > 0 {
		n := 1
		for n < len(elems) && elems[n].Set == elems[0].Set {
			n++
		}
		run := make([]nft.Element, n)
		for i := range run {
			run[i] = elems[i].Element
		}
		f(elems[0].Set, run...)
		elems = elems[n:]
	}
}

// String renders the changes for people and for tests.
func (ch *Changes) String() string {
	var b strings.Builder
	for _, c := range ch.AddChains {
		b.WriteString("+ " + c.String())
	}
	for _, c := range ch.Rewrite {
		b.WriteString("= " + c.String())
	}
	for _, e := range ch.Del {
		fmt.Fprintf(&b, "- %s { %s }\n", e.Set, types[e.Set].Key.Format(e.Key))
	}
	for _, e := range ch.Add {
		fmt.Fprintf(&b, "+ %s\n", e)
	}
	for _, name := range ch.DelChains {
		fmt.Fprintf(&b, "- chain %s\n", name)
	}
	return b.String()
}

// trim drops what is only needed to write a block, once it is written.
func (ch *Changes) trim() {
	for _, list := range [][]Chain{ch.AddChains, ch.Rewrite} {
		for i := range list {
			list[i].Rules = nil
		}
	}
}
