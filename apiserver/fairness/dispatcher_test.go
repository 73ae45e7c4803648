package fairness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"

	"proa/auth"
)

// limited makes a level with queues; lends and borrows are percentages,
// borrows below zero is without limit.
func limited(name string, shares, lends, borrows, queues, hand, length int32) *flowcontrolv1.PriorityLevelConfiguration {
	l := &flowcontrolv1.PriorityLevelConfiguration{}
	l.Name = name
	l.Spec.Type = flowcontrolv1.PriorityLevelEnablementLimited
	l.Spec.Limited = &flowcontrolv1.LimitedPriorityLevelConfiguration{
		NominalConcurrencyShares: ptr.To(shares), LendablePercent: ptr.To(lends),
		LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeQueue,
			Queuing: &flowcontrolv1.QueuingConfiguration{Queues: queues, HandSize: hand, QueueLengthLimit: length}},
	}
	if borrows >= 0 {
		l.Spec.Limited.BorrowingLimitPercent = ptr.To(borrows)
	}
	return l
}

// forGroup is a schema that takes a group's requests to a level, a flow a user.
func forGroup(group, level string) *flowcontrolv1.FlowSchema {
	s := &flowcontrolv1.FlowSchema{}
	s.Name = group
	s.Spec = flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level}, MatchingPrecedence: 100,
		DistinguisherMethod: &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects:      []flowcontrolv1.Subject{{Kind: "Group", Group: &flowcontrolv1.GroupSubject{Name: group}}},
			ResourceRules: []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, Namespaces: []string{"*"}, ClusterScope: true}},
		}},
	}
	return s
}

func fairness(seats int, schemas []*flowcontrolv1.FlowSchema, levels ...*flowcontrolv1.PriorityLevelConfiguration) *Fairness {
	f := New(Config{Seats: seats})
	f.compile(schemas, levels, time.Now())
	return f
}

func by(user, group string) *auth.Attributes {
	return &auth.Attributes{User: auth.User{Name: user, Groups: []string{group}}, Verb: "get", Resource: "pods", ResourceRequest: true}
}

// crowd sends requests that take some time each, a number of them at once,
// until ctx ends, and says what they got.
type crowd struct {
	a      *auth.Attributes
	seats  int
	takes  time.Duration
	mu     sync.Mutex
	served int
	used   float64 // seat-seconds
	worst  time.Duration
	errs   int
}

func (c *crowd) run(ctx context.Context, f *Fairness, atOnce int) {
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for ctx.Err() == nil {
				c.once(ctx, f)
			}
		})
	}
	wg.Wait()
}

func (c *crowd) once(ctx context.Context, f *Fairness) {
	start := time.Now()
	t, _, err := f.Enter(ctx, c.a, Work{Seats: c.seats})
	waited := time.Since(start)
	if err != nil {
		c.mu.Lock()
		c.errs++
		c.mu.Unlock()
		time.Sleep(50 * time.Millisecond)
		return
	}
	time.Sleep(c.takes)
	t.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.served++
	c.used += float64(c.seats) * c.takes.Seconds()
	c.worst = max(c.worst, waited)
}

// TestFloodWithinALevel lets one client flood a level that a quiet one uses: the
// quiet one's requests wait no longer than what runs takes.
func TestFloodWithinALevel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fairness(10, []*flowcontrolv1.FlowSchema{forGroup("g", "l")}, limited("l", 100, 0, -1, 64, 8, 50))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		flood := &crowd{a: by("flood", "g"), seats: 1, takes: 100 * time.Millisecond}
		quiet := &crowd{a: by("quiet", "g"), seats: 1, takes: 100 * time.Millisecond}
		var wg sync.WaitGroup
		wg.Go(func() { flood.run(ctx, f, 1000) })
		time.Sleep(time.Second)
		wg.Go(func() { quiet.run(ctx, f, 1) })
		wg.Wait()
		if quiet.worst > 250*time.Millisecond || quiet.errs > 1 || quiet.served < 60 {
			t.Errorf("the quiet client: %d served, %d refused, worst wait %v", quiet.served, quiet.errs, quiet.worst)
		}
		if flood.errs == 0 {
			t.Error("nothing of the flood was refused")
		}
		if got := float64(flood.served+quiet.served) / 2000; got < 0.9 {
			t.Errorf("the seats were used to %.0f %%", 100*got)
		}
		settled(t, f)
	})
}

// TestFlowsShareSeatSeconds has flows with wide, slow and many requests contend:
// each gets the same seat-seconds.
func TestFlowsShareSeatSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fairness(8, []*flowcontrolv1.FlowSchema{forGroup("g", "l")}, limited("l", 100, 0, -1, 512, 8, 500))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		clients := []*crowd{
			{a: by("many", "g"), seats: 1, takes: 10 * time.Millisecond},
			{a: by("wide", "g"), seats: 4, takes: 10 * time.Millisecond},
			{a: by("slow", "g"), seats: 1, takes: 200 * time.Millisecond},
		}
		var wg sync.WaitGroup
		for i, c := range clients {
			wg.Go(func() { c.run(ctx, f, []int{300, 50, 50}[i]) })
		}
		wg.Wait()
		sum := 0.0
		for _, c := range clients {
			sum += c.used
		}
		for _, c := range clients {
			if part := c.used / sum; part < 0.25 || part > 0.42 {
				t.Errorf("%s got %.2f of the seat-seconds, want a third", c.a.User.Name, part)
			}
		}
		settled(t, f)
	})
}

// TestLevelsAreKeptApart lets a level borrow all it can and then has another one
// come back for its own.
func TestLevelsAreKeptApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		schemas := []*flowcontrolv1.FlowSchema{forGroup("low", "low"), forGroup("high", "high")}
		f := fairness(20, schemas, limited("low", 10, 50, -1, 64, 4, 500), limited("high", 10, 50, -1, 64, 4, 500))
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		low := &crowd{a: by("batch", "low"), seats: 1, takes: 100 * time.Millisecond}
		var wg sync.WaitGroup
		wg.Go(func() { low.run(ctx, f, 400) })
		time.Sleep(5 * time.Second)
		synctest.Wait()
		// Of 25 shares each has 10; the catch-all's 5 are not lent.
		if got := inUse(f, "low"); got != 12 {
			t.Errorf("alone, low uses %d seats, want its 8 and the 4 that high lends", got)
		}
		high := &crowd{a: by("node", "high"), seats: 1, takes: 100 * time.Millisecond}
		wg.Go(func() { high.run(ctx, f, 400) })
		time.Sleep(time.Second)
		synctest.Wait()
		if l, h := inUse(f, "low"), inUse(f, "high"); l != 8 || h != 8 {
			t.Errorf("with both at work, low uses %d seats and high %d, want 8 each", l, h)
		}
		wg.Wait()
		settled(t, f)
	})
}

func inUse(f *Fairness, level string) int {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	for _, l := range f.d.levels {
		if l.name == level {
			return l.inUse
		}
	}
	return -1
}

// settled checks that nothing is left over.
func settled(t *testing.T, f *Fairness) {
	t.Helper()
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	for _, l := range f.d.levels {
		if l.inUse != 0 || l.running != 0 || l.waiting != 0 {
			t.Errorf("level %s is left with %d seats, %d running, %d waiting", l.name, l.inUse, l.running, l.waiting)
		}
		for i, q := range l.queues {
			if len(q.tickets) != 0 || q.running != 0 || q.seats != 0 {
				t.Errorf("queue %d of %s is left with %d tickets, %d running, %d seats", i, l.name, len(q.tickets), q.running, q.seats)
			}
		}
	}
	if f.d.waiting != 0 {
		t.Errorf("%d tickets are counted as waiting", f.d.waiting)
	}
}

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reject := limited("r", 100, 0, 0, 1, 1, 1)
		reject.Spec.Limited.LimitResponse = flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}
		f := fairness(2, []*flowcontrolv1.FlowSchema{forGroup("q", "q"), forGroup("r", "r")}, limited("q", 100, 0, 0, 1, 1, 1), reject)
		held, _, err := f.Enter(t.Context(), by("a", "q"), Work{})
		if err != nil {
			t.Fatal(err)
		}
		results := make(chan error, 2)
		for range 2 {
			go func() { _, _, err := f.Enter(t.Context(), by("b", "q"), Work{}); results <- err }()
		}
		synctest.Wait()
		if err := <-results; !apierrors.IsTooManyRequests(err) {
			t.Errorf("beyond the queue's length: %v", err)
		}
		start := time.Now()
		if err := <-results; !apierrors.IsTooManyRequests(err) || time.Since(start) != defaultWait {
			t.Errorf("beyond the time in the queue: %v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _, err := f.Enter(ctx, by("c", "q"), Work{}); results <- err }()
		synctest.Wait()
		cancel()
		if err := <-results; err == nil {
			t.Error("a request whose client went away was let in")
		}
		held.Done()
		held.Done()
		one, _, err := f.Enter(t.Context(), by("a", "r"), Work{})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := f.Enter(t.Context(), by("a", "r"), Work{}); !apierrors.IsTooManyRequests(err) {
			t.Errorf("a level that refuses: %v", err)
		}
		one.Done()
		settled(t, f)
	})
}

// TestInvariants does things at random and checks the books after each.
func TestInvariants(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { invariants(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func invariants(t *testing.T, r *rand.Rand) {
	levels := []*flowcontrolv1.PriorityLevelConfiguration{
		limited("a", 10, 30, -1, 8, 2, 5), limited("b", 30, 90, 50, 16, 4, 10), limited("c", 1, 0, 0, 4, 4, 50)}
	f := fairness(r.IntN(40)+3, nil, levels...)
	var open []*ticket
	now := time.Now()
	for step := range 3000 {
		now = now.Add(time.Duration(r.IntN(1000)) * time.Microsecond)
		if i := r.IntN(len(open) + 3); i < len(open) {
			tk := open[i]
			if !f.d.finish(tk, now) && r.IntN(2) == 0 {
				f.d.leave(tk, now)
			}
			if tk.state == stateOver {
				open = slices.Delete(open, i, i+1)
			}
		} else {
			l := f.config.Load().levels[string("abc"[r.IntN(3)])]
			tk := &ticket{level: l, flow: r.Uint64N(6), work: work{seats: r.IntN(12)}}
			if f.d.arrive(tk, now) == ReasonNotRejected {
				open = append(open, tk)
			}
		}
		if step%500 == 499 {
			levels[0].Spec.Limited.NominalConcurrencyShares = ptr.To(int32(r.IntN(40)))
			f.compile(nil, levels, now)
		}
		checkBooks(t, f)
	}
	for len(open) > 0 {
		if n := len(open); f.d.finish(open[n-1], now) || f.d.leave(open[n-1], now) {
			open = open[:n-1]
		}
	}
	settled(t, f)
}

func checkBooks(t *testing.T, f *Fairness) {
	t.Helper()
	d := &f.d
	taken, waiting := 0, 0
	for _, l := range d.levels {
		if l.exempt {
			continue
		}
		taken += max(l.inUse, l.reserve)
		seats, inQueues := 0, 0
		for _, q := range l.queues {
			inQueues += len(q.tickets)
			seats += q.seats
			for _, tk := range q.tickets {
				seats -= tk.seats
			}
		}
		if inQueues != l.waiting || len(l.queues) > 0 && seats != l.inUse {
			t.Fatalf("level %s: %d in queues, %d counted; %d seats in queues, %d counted", l.name, inQueues, l.waiting, seats, l.inUse)
		}
		waiting += l.waiting
	}
	if taken != d.taken || waiting != d.waiting {
		t.Fatalf("taken %d, counted %d; waiting %d, counted %d", taken, d.taken, waiting, d.waiting)
	}
	if d.waiting > 0 {
		if tk := d.next(); tk != nil {
			t.Fatalf("a ticket of %s waits although it may run", tk.level.name)
		}
	}
}

// TestHands deals many flows and sees that few pairs share their whole hand.
func TestHands(t *testing.T) {
	hand := func(flow uint64) (out []int) {
		for range 6 {
			out = append(out, deal(&flow, 128, out))
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	seen, load := map[string]bool{}, make([]int, 128)
	for i := range uint64(10000) {
		h := hand(mix(i))
		if len(h) != 6 {
			t.Fatalf("a hand of %d: %v", len(h), h)
		}
		for _, c := range h {
			load[c]++
		}
		if key := fmt.Sprint(h); seen[key] {
			t.Errorf("two of 10,000 flows were dealt %s", key)
		} else {
			seen[key] = true
		}
	}
	if least, most := slices.Min(load), slices.Max(load); least < 380 || most > 560 {
		t.Errorf("queues were dealt between %d and %d times, want about 469", least, most)
	}
}

func TestMatching(t *testing.T) {
	f := New(Config{})
	system := func(name string, groups ...string) auth.User { return auth.User{Name: name, Groups: groups} }
	for _, c := range []struct {
		a    auth.Attributes
		want string
	}{
		{auth.Attributes{User: system("x", auth.GroupMasters), Verb: "get", Path: "/"}, "exempt"},
		{auth.Attributes{User: system("x", auth.GroupUnauthenticated), Verb: "get", Path: "/readyz"}, "probes"},
		{auth.Attributes{User: system("system:node:n", auth.GroupNodes, auth.GroupAuthenticated), Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-node-lease", ResourceRequest: true}, "system-node-high"},
		{auth.Attributes{User: system("system:node:n", auth.GroupNodes, auth.GroupAuthenticated), Verb: "get", Resource: "secrets", Namespace: "a", ResourceRequest: true}, "system-nodes"},
		{auth.Attributes{User: system("system:node:n", auth.GroupNodes, auth.GroupAuthenticated), Verb: "patch", Resource: "nodes", Subresource: "status", ResourceRequest: true}, "system-node-high"},
		{auth.Attributes{User: system("system:serviceaccount:kube-system:x", auth.GroupServiceAccounts, auth.GroupAuthenticated), Verb: "get", Resource: "pods", Namespace: "a", ResourceRequest: true}, "kube-system-service-accounts"},
		{auth.Attributes{User: system("system:serviceaccount:a:x", auth.GroupServiceAccounts, auth.GroupAuthenticated), Verb: "get", Resource: "pods", Namespace: "a", ResourceRequest: true}, "service-accounts"},
		{auth.Attributes{User: system("me", auth.GroupAuthenticated), Verb: "list", Resource: "pods", ResourceRequest: true}, "global-default"},
		{auth.Attributes{User: system("me"), Verb: "list", Resource: "pods", ResourceRequest: true}, "catch-all"},
	} {
		if got := f.classify(&c.a).name; got != c.want {
			t.Errorf("%+v: %s, want %s", c.a, got, c.want)
		}
	}
}

func BenchmarkEnter(b *testing.B) {
	for name, a := range map[string]*auth.Attributes{
		"exempt": by("root", auth.GroupMasters), "default": by("me", auth.GroupAuthenticated), "sa": by("system:serviceaccount:a:b", auth.GroupServiceAccounts),
	} {
		b.Run(name, func(b *testing.B) {
			f := New(Config{})
			b.ReportAllocs()
			for b.Loop() {
				t, _, err := f.Enter(b.Context(), a, Work{Seats: 1})
				if err != nil {
					b.Fatal(err)
				}
				t.Done()
			}
		})
	}
}
