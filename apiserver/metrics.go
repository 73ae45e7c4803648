package apiserver

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what /metrics shows, under upstream's names.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	watches  *prometheus.GaugeVec
	handler  http.Handler
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total", Help: "Requests answered, by verb, resource and status code.",
		}, []string{"verb", "group", "version", "resource", "subresource", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_request_duration_seconds", Help: "Time to answer a request other than a watch.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"verb", "resource"}),
		watches: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_longrunning_requests", Help: "Watches open now, by resource.",
		}, []string{"resource"}),
	}
	m.registry.MustRegister(m.requests, m.seconds, m.watches, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	return m
}

// observe counts a request. Names that no resource has do not become labels: a
// client must not be able to grow the set.
func (m *metrics) observe(x *exchange, d time.Duration) {
	t := x.t
	if !t.Resource || x.status == http.StatusNotFound || x.status >= http.StatusUnauthorized && x.status <= http.StatusForbidden {
		t = target{Verb: t.Verb}
		if _, known := methodVerbs[x.r.Method]; !known {
			t.Verb = "other"
		}
	}
	m.requests.WithLabelValues(t.Verb, t.Group, t.Version, t.Plural, t.Subresource, strconv.Itoa(x.status)).Inc()
	if !t.long(x.r.URL.Query()) {
		m.seconds.WithLabelValues(t.Verb, t.Plural).Observe(d.Seconds())
	}
}
