package dns

import (
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts what was asked and answered. They are the resolver's own, so
// that several in one process do not meet in a global register.
type metrics struct {
	requests *prometheus.CounterVec   // by type of record
	replies  *prometheus.CounterVec   // by code and where the answer came from
	duration *prometheus.HistogramVec // seconds, by where the answer came from
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "proa_dns_requests_total", Help: "Questions, by type of record."}, []string{"type"}),
		replies: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "proa_dns_responses_total", Help: "Answers, by code and source."}, []string{"rcode", "source"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "proa_dns_request_duration_seconds", Help: "Time to answer, by source.",
			Buckets: []float64{.00005, .0002, .001, .005, .02, .1, .5, 2, 5}}, []string{"source"}),
	}
	if r != nil {
		r.MustRegister(m.requests, m.replies, m.duration)
	}
	return m
}

// begin starts the clock for a question; the result stops it.
func (m *metrics) begin() func(req, reply *dns.Msg, source string) {
	start := time.Now()
	return func(req, reply *dns.Msg, source string) {
		qtype := "other"
		if len(req.Question) == 1 {
			if name, known := common[req.Question[0].Qtype]; known {
				qtype = name
			}
		}
		m.requests.WithLabelValues(qtype).Inc()
		m.replies.WithLabelValues(dns.RcodeToString[reply.Rcode], source).Inc()
		m.duration.WithLabelValues(source).Observe(time.Since(start).Seconds())
	}
}

// common are the types that get a label of their own: clients must not be able
// to make ever new ones.
var common = map[uint16]string{
	dns.TypeA: "A", dns.TypeAAAA: "AAAA", dns.TypeSRV: "SRV", dns.TypePTR: "PTR", dns.TypeCNAME: "CNAME", dns.TypeTXT: "TXT",
	dns.TypeMX: "MX", dns.TypeNS: "NS", dns.TypeSOA: "SOA", dns.TypeHTTPS: "HTTPS",
}
