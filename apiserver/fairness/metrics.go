package fairness

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are apiserver_flowcontrol_*, under upstream's names. What changes
// with every request is counted in place and only read when somebody asks.
type Metrics struct {
	f        *Fairness
	rejected *prometheus.CounterVec
	waits    *prometheus.HistogramVec
	runs     *prometheus.HistogramVec
	handles  sync.Map // flow schema and level to *handles
}

// handles are one flow schema's own instruments, found once.
type handles struct{ waited, turnedAway, ran prometheus.Observer }

func newMetrics(f *Fairness) *Metrics {
	labels := []string{"priority_level", "flow_schema"}
	return &Metrics{
		f: f,
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_flowcontrol_rejected_requests_total", Help: "Requests refused, by why.",
		}, append(labels, "reason")),
		waits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_flowcontrol_request_wait_duration_seconds", Help: "Time in a queue.",
			Buckets: []float64{0, .005, .02, .05, .1, .2, .5, 1, 2, 5, 10, 15, 30},
		}, append(labels, "execute")),
		runs: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_flowcontrol_request_execution_seconds", Help: "Time that seats were held.",
			Buckets: []float64{.005, .02, .05, .1, .2, .5, 1, 2, 5, 10, 15, 30},
		}, labels),
	}
}

func (m *Metrics) of(s *schema) *handles {
	key := [2]string{s.levelName, s.name}
	if h, ok := m.handles.Load(key); ok {
		return h.(*handles)
	}
	h := &handles{
		waited: m.waits.WithLabelValues(s.levelName, s.name, "true"), turnedAway: m.waits.WithLabelValues(s.levelName, s.name, "false"),
		ran: m.runs.WithLabelValues(s.levelName, s.name),
	}
	m.handles.Store(key, h)
	return h
}

func (m *Metrics) waited(s *schema, d time.Duration, refused string) {
	if refused == ReasonNotRejected {
		s.observers(m).waited.Observe(d.Seconds())
		return
	}
	s.observers(m).turnedAway.Observe(d.Seconds())
	m.rejected.WithLabelValues(s.levelName, s.name, refused).Inc()
}

func (m *Metrics) ran(s *schema, d time.Duration) { s.observers(m).ran.Observe(d.Seconds()) }

// observers are looked up once for each compiled schema.
func (s *schema) observers(m *Metrics) *handles {
	if h := s.handles.Load(); h != nil {
		return h
	}
	h := m.of(s)
	s.handles.Store(h)
	return h
}

// gauge is one number of a level.
type gauge struct {
	desc *prometheus.Desc
	read func(l *level) int
}

func levelGauge(name, help string, read func(l *level) int) gauge {
	return gauge{prometheus.NewDesc("apiserver_flowcontrol_"+name, help, []string{"priority_level"}, nil), read}
}

var gauges = []gauge{
	levelGauge("current_inqueue_requests", "Requests that wait.", func(l *level) int { return l.waiting }),
	levelGauge("current_executing_requests", "Requests that run.", func(l *level) int { return l.running }),
	levelGauge("current_executing_seats", "Seats in use.", func(l *level) int { return l.inUse }),
	levelGauge("nominal_limit_seats", "The level's share of the server's seats.", func(l *level) int { return l.nominal }),
	levelGauge("lower_limit_seats", "Seats that the level does not lend.", func(l *level) int { return l.reserve }),
	levelGauge("upper_limit_seats", "Seats that the level may have with what it borrows.", func(l *level) int { return l.most }),
	levelGauge("current_limit_seats", "Seats that the level may have now.", func(l *level) int { return max(l.nominal, l.inUse) }),
	levelGauge("demand_seats", "Seats in use or waited for.", (*level).demand),
}

var dispatchedDesc = prometheus.NewDesc("apiserver_flowcontrol_dispatched_requests_total",
	"Requests let in.", []string{"priority_level", "flow_schema"}, nil)

// Describe and Collect are Prometheus' Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range []prometheus.Collector{m.rejected, m.waits, m.runs} {
		c.Describe(ch)
	}
	for _, g := range gauges {
		ch <- g.desc
	}
	ch <- dispatchedDesc
}

func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range []prometheus.Collector{m.rejected, m.waits, m.runs} {
		c.Collect(ch)
	}
	for _, s := range m.f.config.Load().schemas {
		ch <- prometheus.MustNewConstMetric(dispatchedDesc, prometheus.CounterValue, float64(s.dispatched.Load()), s.levelName, s.name)
	}
	m.f.d.mu.Lock()
	defer m.f.d.mu.Unlock()
	for _, l := range m.f.d.levels {
		for _, g := range gauges {
			if !l.gone {
				ch <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(g.read(l)), l.name)
			}
		}
	}
}

func (l *level) demand() int {
	if len(l.queues) == 0 {
		return l.inUse
	}
	seats := 0
	for i := range l.queues {
		seats += l.queues[i].seats
	}
	return seats
}
