package dns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	tryTimeout    = 2 * time.Second // for one resolver
	totalTimeout  = 5 * time.Second // a stub resolver gives up then, too
	maxConcurrent = 1000            // queries under way to other resolvers
	udpSize       = 1232            // fits every path unfragmented (DNS flag day 2020)
)

var (
	errNoResolvers = errors.New("no other resolver is configured")
	errBusy        = errors.New("too many queries are under way")
)

// forwarder asks the machine's resolvers what the cluster does not know.
type forwarder struct {
	own       []netip.AddrPort // never asked: they are this server
	log       *slog.Logger
	cache     *cache
	slots     chan struct{}
	resolvers atomic.Pointer[[]*resolver]

	mu     sync.Mutex
	flying map[question]*flight
}

// resolver is one other server. It is tried last for as long as it failed last.
type resolver struct {
	addr   netip.AddrPort
	failed atomic.Bool
	loop   atomic.Bool // it sends our questions back to us
	token  string      // the name by which a question that came back is known
}

// question is what answers are remembered by.
type question struct {
	name          string // lower case
	qtype, qclass uint16
	do, cd        bool
}

// flight is a question under way; others with the same wait for its answer.
type flight struct {
	done   chan struct{}
	answer *dns.Msg
	err    error
}

func newForwarder(own []netip.AddrPort, log *slog.Logger) *forwarder {
	f := &forwarder{own: own, log: log, cache: newCache(), slots: make(chan struct{}, maxConcurrent), flying: map[question]*flight{}}
	f.resolvers.Store(&[]*resolver{})
	return f
}

// configure reads the resolvers from a file in the format of resolv.conf(5).
// Those that stay keep what is known about them.
func (f *forwarder) configure(path string) ([]*resolver, error) {
	addrs, err := nameservers(path)
	if err != nil {
		return nil, err
	}
	old := *f.resolvers.Load()
	var next, fresh []*resolver
	for _, a := range addrs {
		if f.isOwn(a) {
			continue
		}
		i := slices.IndexFunc(old, func(r *resolver) bool { return r.addr == a })
		if i >= 0 {
			next = append(next, old[i])
			continue
		}
		r := &resolver{addr: a, token: fmt.Sprintf("%016x.loop.proa.", rand.Uint64())}
		next, fresh = append(next, r), append(fresh, r)
	}
	if !slices.Equal(next, old) {
		f.resolvers.Store(&next)
		f.cache.clear()
	}
	return fresh, nil
}

func (f *forwarder) isOwn(a netip.AddrPort) bool {
	return slices.ContainsFunc(f.own, func(o netip.AddrPort) bool {
		return o == a || o.Addr().IsUnspecified() && o.Port() == a.Port() && a.Addr().IsLoopback()
	})
}

// nameservers reads the resolvers of a resolv.conf; a file that is not there
// has none.
func nameservers(path string) ([]netip.AddrPort, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) || path == "" {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("dns: read the machine's resolvers: %w", err)
	}
	defer file.Close()
	var out []netip.AddrPort
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil && !slices.Contains(out, netip.AddrPortFrom(a, 53)) {
			out = append(out, netip.AddrPortFrom(a, 53))
		} else if ap, err := netip.ParseAddrPort(fields[1]); err == nil {
			out = append(out, ap)
		}
	}
	return out, nil
}

// resolve answers from the cache or from another resolver. Each caller gets a
// message of its own.
func (f *forwarder) resolve(ctx context.Context, q question) (msg *dns.Msg, cached bool, err error) {
	if m := f.cache.get(q, time.Now()); m != nil {
		return m, true, nil
	}
	f.mu.Lock()
	fl, waiting := f.flying[q]
	if !waiting {
		fl = &flight{done: make(chan struct{})}
		f.flying[q] = fl
	}
	f.mu.Unlock()
	if !waiting {
		fl.answer, fl.err = f.ask(ctx, q)
		f.mu.Lock()
		delete(f.flying, q)
		f.mu.Unlock()
		close(fl.done)
	}
	select {
	case <-fl.done:
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	if fl.err != nil {
		return nil, false, fl.err
	}
	return fl.answer.Copy(), false, nil
}

// ask tries one resolver after the other, those that work first.
func (f *forwarder) ask(ctx context.Context, q question) (*dns.Msg, error) {
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return nil, errBusy
	}
	ctx, cancel := context.WithTimeout(ctx, totalTimeout)
	defer cancel()
	err := errNoResolvers
	var refused *dns.Msg
	for _, r := range f.order() {
		m, tried := r.exchange(ctx, q)
		r.failed.Store(tried != nil)
		if tried == nil && m.Rcode != dns.RcodeServerFailure && m.Rcode != dns.RcodeRefused {
			f.cache.put(q, m, time.Now())
			return m, nil
		}
		if tried == nil {
			refused = m
		} else {
			err = tried
		}
		if ctx.Err() != nil {
			break
		}
	}
	if refused != nil {
		return refused, nil
	}
	return nil, err
}

func (f *forwarder) order() []*resolver {
	var good, bad []*resolver
	for _, r := range *f.resolvers.Load() {
		switch {
		case r.loop.Load():
		case r.failed.Load():
			bad = append(bad, r)
		default:
			good = append(good, r)
		}
	}
	return append(good, bad...)
}

// exchange asks over UDP, and over TCP what was too long for that.
func (r *resolver) exchange(ctx context.Context, q question) (*dns.Msg, error) {
	m := new(dns.Msg)
	m.Id, m.RecursionDesired, m.CheckingDisabled = dns.Id(), true, q.cd
	m.Question = []dns.Question{{Name: q.name, Qtype: q.qtype, Qclass: q.qclass}}
	m.SetEdns0(udpSize, q.do)
	for _, network := range []string{"udp", "tcp"} {
		answer, err := exchange(ctx, network, r.addr, m)
		if err != nil {
			return nil, err
		}
		if !answer.Truncated || network == "tcp" {
			dropOPT(answer)
			return answer, nil
		}
	}
	return nil, nil // not reached
}

func exchange(ctx context.Context, network string, to netip.AddrPort, m *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, to.String())
	if err != nil {
		return nil, err
	}
	c := &dns.Conn{Conn: conn, UDPSize: udpSize}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := c.WriteMsg(m); err != nil {
		return nil, err
	}
	for {
		answer, err := c.ReadMsg()
		if err != nil {
			return nil, err
		}
		if answer.Id == m.Id && sameQuestion(answer, m) { // anything else is late or forged
			return answer, nil
		}
	}
}

func sameQuestion(a, b *dns.Msg) bool {
	return len(a.Question) == 1 && strings.EqualFold(a.Question[0].Name, b.Question[0].Name) && a.Question[0].Qtype == b.Question[0].Qtype
}

// dropOPT takes out what concerns one hop only.
func dropOPT(m *dns.Msg) {
	m.Extra = slices.DeleteFunc(m.Extra, func(r dns.RR) bool { return r.Header().Rrtype == dns.TypeOPT })
}

// probe asks each resolver for a name that only a question which came back to
// us can carry.
func (f *forwarder) probe(ctx context.Context, fresh []*resolver) {
	for _, r := range fresh {
		_, _ = r.exchange(ctx, question{name: r.token, qtype: dns.TypeHINFO, qclass: dns.ClassINET})
	}
}

// cameBack tells whether the name is of a probe, and takes the resolver that
// sent it back out of use.
func (f *forwarder) cameBack(name string) bool {
	if !strings.HasSuffix(name, ".loop.proa.") {
		return false
	}
	for _, r := range *f.resolvers.Load() {
		if r.token == name && !r.loop.Swap(true) {
			f.log.Error("a resolver of the machine sends our questions back to us and is left out; point it at other servers", "resolver", r.addr)
		}
	}
	return true
}
