package fairness

import (
	"hash/maphash"
	"math"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
)

// config is the objects as the request path reads them; it never changes.
type config struct {
	schemas []*schema
	levels  map[string]*level
	// last is the catch-all, which takes what nothing else matches.
	last *schema
}

// compile follows the objects. The mandatory ones are there even if nobody has
// stored them yet. A schema whose level does not exist matches nothing.
func (f *Fairness) compile(schemas []*flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration, now time.Time) {
	schemas = withMissing(schemas, bootstrap.MandatoryFlowSchemas)
	levels = withMissing(levels, bootstrap.MandatoryPriorityLevelConfigurations)
	uids := map[string]string{}
	for _, l := range levels {
		uids[l.Name] = string(l.UID)
	}
	c := &config{levels: f.d.set(f.seats, limitsOf(levels, f.seats), now)}
	was := f.config.Load()
	for _, s := range schemas {
		if c.levels[s.Spec.PriorityLevelConfiguration.Name] == nil {
			continue
		}
		made := newSchema(s, c.levels[s.Spec.PriorityLevelConfiguration.Name], uids[s.Spec.PriorityLevelConfiguration.Name])
		made.inherit(was)
		c.schemas = append(c.schemas, made)
		if s.Name == flowcontrolv1.FlowSchemaNameCatchAll {
			c.last = made
		}
	}
	order(c.schemas)
	f.config.Store(c)
}

// named is what both kinds have.
type named interface{ GetName() string }

func withMissing[T named](have, needed []T) []T {
	out := have[:len(have):len(have)]
	for _, n := range needed {
		found := false
		for _, h := range have {
			found = found || h.GetName() == n.GetName()
		}
		if !found {
			out = append(out, n)
		}
	}
	return out
}

func newSchema(s *flowcontrolv1.FlowSchema, l *level, levelUID string) *schema {
	out := &schema{name: s.Name, uid: string(s.UID), levelName: l.name, levelUID: levelUID, level: l,
		precedence: s.Spec.MatchingPrecedence, rules: s.Spec.Rules, flows: maphash.MakeSeed()}
	if m := s.Spec.DistinguisherMethod; m != nil {
		out.byUser = m.Type == flowcontrolv1.FlowDistinguisherMethodByUserType
		out.byNS = m.Type == flowcontrolv1.FlowDistinguisherMethodByNamespaceType
	}
	return out
}

// inherit keeps what the schema of this name had before: its flows stay in
// their queues, its counters go on.
func (s *schema) inherit(was *config) {
	if was == nil {
		return
	}
	for _, old := range was.schemas {
		if old.name == s.name {
			s.flows = old.flows
			s.dispatched.Store(old.dispatched.Load())
		}
	}
}

// limitsOf shares the server's seats out by the levels' nominal shares.
func limitsOf(levels []*flowcontrolv1.PriorityLevelConfiguration, seats int) map[string]limits {
	sum := 0
	for _, l := range levels {
		shares, _, _ := sharesOf(l)
		sum += shares
	}
	out := map[string]limits{}
	for _, l := range levels {
		out[l.Name] = limitsFor(l, seats, max(sum, 1))
	}
	return out
}

func limitsFor(l *flowcontrolv1.PriorityLevelConfiguration, seats, sum int) limits {
	shares, lends, borrows := sharesOf(l)
	out := limits{exempt: l.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt}
	out.nominal = int(math.Ceil(float64(seats) * float64(shares) / float64(sum)))
	out.reserve = out.nominal - percent(out.nominal, lends)
	out.most = seats
	if borrows != nil {
		out.most = min(seats, out.nominal+percent(out.nominal, *borrows))
	}
	out.most = max(out.most, 1)
	if lim := l.Spec.Limited; lim != nil && lim.LimitResponse.Type == flowcontrolv1.LimitResponseTypeQueue {
		q := lim.LimitResponse.Queuing
		if q == nil {
			q = &flowcontrolv1.QueuingConfiguration{Queues: 64, HandSize: 8, QueueLengthLimit: 50}
		}
		out.queues = max(int(q.Queues), 1)
		out.hand, out.length = min(max(int(q.HandSize), 1), out.queues, maxHand), max(int(q.QueueLengthLimit), 1)
	}
	return out
}

// sharesOf reads a level's shares and the percentages that it lends and may
// borrow; nil is without limit.
func sharesOf(l *flowcontrolv1.PriorityLevelConfiguration) (shares, lends int, borrows *int32) {
	read := func(p *int32, unset int) int {
		if p == nil {
			return unset
		}
		return int(*p)
	}
	if lim := l.Spec.Limited; lim != nil {
		return read(lim.NominalConcurrencyShares, 30), read(lim.LendablePercent, 0), lim.BorrowingLimitPercent
	}
	if e := l.Spec.Exempt; e != nil {
		return read(e.NominalConcurrencyShares, 0), read(e.LendablePercent, 0), nil
	}
	return 0, 0, nil
}

func percent[N int | int32](n int, p N) int { return int(math.Round(float64(n) * float64(p) / 100)) }
