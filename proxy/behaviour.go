package proxy

import (
	"fmt"
	"hash/fnv"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"time"

	"proa/internal/nft"
)

// behaviour is all that a chain does. Services that want the same share the
// chain, so a few dozen chains serve any number of Services, and a chain never
// changes: who wants another behaviour goes to another chain.
type behaviour struct {
	kind   kind
	family nft.Family
	by     entry
	slots  int           // of the group: see nft.Pick
	local  int           // slots of the group on this node, 0 if that is empty
	sticky time.Duration // session affinity
	ranges string        // allowed sources, joined by commas
}

type kind string

const (
	pick         kind = "pick"          // one of the group
	pickLocal    kind = "pick-local"    // one of the group on this node
	inside       kind = "inside"        // cluster IP
	outside      kind = "outside"       // external address or node port, policy Cluster
	outsideLocal kind = "outside-local" // the same, policy Local
	sources      kind = "sources"       // loadBalancerSourceRanges
)

// entry is what a connection is recognised by.
type entry string

const (
	byAddress  entry = "address"
	byNodePort entry = "nodeport"
)

// slots is how many a group of n endpoints takes. Even the smallest takes four:
// groups of one to four are most, and come and go within that.
func slots(n int) int {
	if n == 0 {
		return 0
	}
	return max(4, 1<<bits.Len(uint(n-1)))
}

func (b behaviour) name() string {
	out := fmt.Sprintf("%s-%s", b.kind, b.family)
	if b.kind == sources {
		h := fnv.New64a()
		h.Write([]byte(b.ranges))
		return fmt.Sprintf("%s/%016x", out, h.Sum64())
	}
	out += fmt.Sprintf("/%s/%d", b.by, b.slots)
	if b.kind == outsideLocal {
		out += fmt.Sprintf("/%d", b.local)
	}
	if b.sticky > 0 {
		out += fmt.Sprintf("/sticky-%ds", int(b.sticky.Seconds()))
	}
	return out
}

// picks is the chain that picks an endpoint for b.
func (b behaviour) picks(k kind) behaviour {
	b.kind = k
	if k == pickLocal {
		b.slots = b.local
	}
	b.local = 0
	return b
}

// needs lists the chains that b leads to.
func (b behaviour) needs() []behaviour {
	switch {
	case b.kind == outsideLocal && b.local > 0:
		return []behaviour{b.picks(pick), b.picks(pickLocal)}
	case b.kind == inside || b.kind == outside || b.kind == outsideLocal:
		return []behaviour{b.picks(pick)}
	}
	return nil
}

func (b behaviour) chain(cfg Config) Chain { return Chain{Name: b.name(), Rules: b.rules(cfg)} }

func (b behaviour) rules(cfg Config) []nft.Rule {
	toPick := nft.Goto(b.picks(pick).name())
	switch b.kind {
	case inside:
		// Who is no pod gets the node's address as source, so that answers come
		// back this way.
		if !b.knows(cfg.ClusterCIDR) {
			return []nft.Rule{{toPick}}
		}
		return []nft.Rule{{nft.NotFrom(cfg.ClusterCIDR), nft.SetMark(masqueradeBit)}, {toPick}}
	case outside:
		// It may go to another node, and the answers must come back here.
		return []nft.Rule{{nft.SetMark(masqueradeBit), toPick}}
	case outsideLocal:
		return b.localRules(cfg, toPick)
	case sources:
		return b.sourceRules(cfg)
	}
	return b.pickRules()
}

func (b behaviour) knows(cidr netip.Prefix) bool {
	return cidr.IsValid() && nft.FamilyOf(cidr.Addr()) == b.family
}

// localRules keep the source and the traffic on this node, but pods and the
// node itself reach every endpoint.
func (b behaviour) localRules(cfg Config, toPick nft.Stmt) []nft.Rule {
	var rules []nft.Rule
	if b.knows(cfg.ClusterCIDR) {
		rules = append(rules, nft.Rule{nft.From(cfg.ClusterCIDR), toPick})
	}
	rules = append(rules, nft.Rule{nft.FromLocal(), nft.SetMark(masqueradeBit), toPick})
	if b.local > 0 {
		rules = append(rules, nft.Rule{nft.Goto(b.picks(pickLocal).name())})
	}
	return rules
}

// sourceRules let only the allowed ranges pass.
func (b behaviour) sourceRules(cfg Config) []nft.Rule {
	var rules []nft.Rule
	for _, text := range strings.Split(b.ranges, ",") {
		r, err := netip.ParsePrefix(text)
		if err != nil {
			continue
		}
		rules = append(rules, nft.Rule{nft.From(r), nft.Return()})
		if slices.ContainsFunc(cfg.NodeIPs, r.Contains) {
			// The node's own connections may carry the balancer's address.
			rules = append(rules, nft.Rule{nft.FromLocal(), nft.Return()})
		}
	}
	return append(rules, nft.Rule{nft.Drop()})
}

func (b behaviour) pickRules() []nft.Rule {
	f := b.family
	p := nft.Pick{
		Family: f, Key: []nft.Field{f.Daddr(), nft.L4Proto, nft.Dport}, Groups: set(groupSets[b.by][b.kind], f),
		Endpoints: set(setEndpoints, f), Slots: b.slots, Timeout: b.sticky,
		Clients: set(setClients, f), Serving: set(setServing, f),
	}
	if b.by == byNodePort {
		p.Key = p.Key[1:]
	}
	return p.Rules()
}

var groupSets = map[entry]map[kind]string{
	byAddress:  {pick: setGroups, pickLocal: setLocal},
	byNodePort: {pick: setNodePortGroups, pickLocal: setNodePortLocal},
}
