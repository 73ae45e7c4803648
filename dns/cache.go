package dns

import (
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	cacheSize   = 4096
	maxPositive = 5 * time.Minute
	maxNegative = 30 * time.Second
)

// cache remembers answers of other resolvers, packed, for as long as they say,
// negative ones as RFC 2308 has it. When it is full, what comes next in the
// map's random order makes room.
type cache struct {
	mu      sync.RWMutex
	entries map[question]entry
}

type entry struct {
	packed  []byte
	stored  time.Time
	expires time.Time
}

func newCache() *cache { return &cache{entries: map[question]entry{}} }

func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.entries)
}

// get returns a message of the caller's own, its times to live reduced by the
// time it was kept.
func (c *cache) get(q question, now time.Time) *dns.Msg {
	c.mu.RLock()
	e, ok := c.entries[q]
	c.mu.RUnlock()
	if !ok || !now.Before(e.expires) {
		return nil
	}
	m := new(dns.Msg)
	if m.Unpack(e.packed) != nil {
		return nil
	}
	age := uint32(now.Sub(e.stored) / time.Second)
	eachTTL(m, func(ttl *uint32) { *ttl -= min(age, *ttl) })
	return m
}

func (c *cache) put(q question, m *dns.Msg, now time.Time) {
	keep := lifetime(m)
	if keep <= 0 || m.Truncated {
		return
	}
	packed, err := m.Pack()
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, there := c.entries[q]; !there && len(c.entries) >= cacheSize {
		c.makeRoom(now)
	}
	c.entries[q] = entry{packed, now, now.Add(keep)}
}

// makeRoom drops some that have expired or, failing that, any one.
func (c *cache) makeRoom(now time.Time) {
	looked := 0
	for q, e := range c.entries {
		if looked++; now.After(e.expires) || looked > 16 {
			delete(c.entries, q)
			if looked > 16 {
				return
			}
		}
	}
}

// lifetime is how long an answer may be kept.
func lifetime(m *dns.Msg) time.Duration {
	if m.Rcode == dns.RcodeNameError || m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0 {
		for _, r := range m.Ns {
			if soa, ok := r.(*dns.SOA); ok {
				return min(time.Duration(min(soa.Minttl, soa.Hdr.Ttl))*time.Second, maxNegative)
			}
		}
		return 0
	}
	if m.Rcode != dns.RcodeSuccess {
		return 0
	}
	keep := maxPositive
	eachTTL(m, func(ttl *uint32) { keep = min(keep, time.Duration(*ttl)*time.Second) })
	return keep
}

func eachTTL(m *dns.Msg, f func(ttl *uint32)) {
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, r := range section {
			if h := r.Header(); h.Rrtype != dns.TypeOPT {
				f(&h.Ttl)
			}
		}
	}
}
