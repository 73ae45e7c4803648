package proxy

import (
	"cmp"
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
	chains map[behaviour]int // how many blocks use each
}

func newState() *state {
	return &state{blocks: map[string]*Block{}, held: map[elementKey]*holding{}, chains: map[behaviour]int{}}
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
	AddChains, DelChains []behaviour
	Del, Add             []Element

	touched    map[elementKey]*nft.Element // what was in force before, nil if nothing
	used       map[behaviour]bool          // whether a chain was there before
	moved      map[netip.Addr]int          // by how much the number of targets at an address changed
	forgotten  []string                    // groups that are no more
	stale      staleFlows
	contention []string
}

func newChanges() *Changes {
	return &Changes{
		touched: map[elementKey]*nft.Element{}, used: map[behaviour]bool{}, moved: map[netip.Addr]int{},
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
	s.use(old.Chains, -1, ch)
	s.use(next.Chains, 1, ch)
	s.claims(service, old, next, ch)
	ch.flows(old, next)
	for _, g := range old.groups {
		if !slices.Contains(next.groups, g) {
			ch.forgotten = append(ch.forgotten, g)
		}
	}
}

func (s *state) use(chains []behaviour, by int, ch *Changes) {
	for _, c := range chains {
		if _, known := ch.used[c]; !known {
			ch.used[c] = s.chains[c] > 0
		}
		if s.chains[c] += by; s.chains[c] == 0 {
			delete(s.chains, c)
		}
	}
}

// claims changes what a Service asks for. An element whose data changes keeps
// its place among the claims.
func (s *state) claims(service string, old, next *Block, ch *Changes) {
	had := make(map[elementKey]Element, len(old.Elements))
	for _, e := range old.Elements {
		had[elementKey{e.Set, e.Key}] = e
	}
	for _, e := range next.Elements {
		k := elementKey{e.Set, e.Key}
		was, known := had[k]
		delete(had, k)
		switch {
		case known && was == e:
		case exclusive(e.Set):
			ch.swap(k, was, known, e)
		case known:
			s.amend(service, e, ch)
		default:
			s.claim(service, e, ch)
		}
	}
	for k, e := range had {
		if exclusive(e.Set) {
			ch.Del = append(ch.Del, Element{k.set, nft.Element{Key: k.key}})
		} else {
			s.release(service, e, ch)
		}
	}
}

// exclusive sets have elements by groups, which belong to one Service each, so
// nobody else can claim them.
func exclusive(set string) bool { return exclusiveSets[set] }

var exclusiveSets = func() map[string]bool {
	out := map[string]bool{}
	for _, f := range families {
		out[set(setEndpoints, f)], out[set(setServing, f)] = true, true
	}
	return out
}()

func (ch *Changes) swap(k elementKey, was Element, known bool, is Element) {
	if known {
		ch.Del = append(ch.Del, Element{k.set, nft.Element{Key: was.Key}})
	}
	ch.Add = append(ch.Add, is)
}

func (s *state) amend(service string, e Element, ch *Changes) {
	k := elementKey{e.Set, e.Key}
	h := s.held[k]
	ch.touch(k, h)
	for i := range h.claims {
		if h.claims[i].service == service {
			h.claims[i].element = e.Element
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
	for c, was := range ch.used {
		switch is := s.chains[c] > 0; {
		case is && !was:
			ch.AddChains = append(ch.AddChains, c)
		case was && !is:
			ch.DelChains = append(ch.DelChains, c)
		}
	}
	slices.SortFunc(ch.Del, Element.compare)
	slices.SortFunc(ch.Add, Element.compare)
	slices.SortFunc(ch.AddChains, byName)
	slices.SortFunc(ch.DelChains, byName)
}

func byName(a, b behaviour) int { return cmp.Compare(a.name(), b.name()) }

// write puts the changes into a transaction, in an order in which nothing
// refers to what is not there.
func (ch *Changes) write(b *nft.Batch, cfg Config) {
	for _, c := range ch.AddChains {
		b.AddChain(c.name(), nil)
	}
	for _, c := range ch.AddChains {
		for _, r := range c.rules(cfg) {
			b.AddRule(c.name(), r)
		}
	}
	bySet(ch.Del, b.DelElements)
	bySet(ch.Add, b.AddElements)
	for _, c := range ch.DelChains {
		b.FlushChain(c.name())
	}
	for _, c := range ch.DelChains {
		b.DelChain(c.name())
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
		fmt.Fprintf(&b, "+ chain %s\n", c.name())
	}
	for _, e := range ch.Del {
		fmt.Fprintf(&b, "- %s { %s }\n", e.Set, types[e.Set].Key.Format(e.Key))
	}
	for _, e := range ch.Add {
		fmt.Fprintf(&b, "+ %s\n", e)
	}
	for _, c := range ch.DelChains {
		fmt.Fprintf(&b, "- chain %s\n", c.name())
	}
	return b.String()
}
