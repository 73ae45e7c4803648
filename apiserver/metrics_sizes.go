package apiserver

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
)

// sizes measures what is sent, and what was refused or cut off to protect the
// server, under upstream's names.
type sizes struct {
	answers    *prometheus.HistogramVec
	terminated *prometheus.CounterVec
	events     *prometheus.CounterVec
	eventBytes *prometheus.HistogramVec
}

func newSizes(r prometheus.Registerer) sizes {
	what := []string{"group", "version", "resource"}
	s := sizes{
		answers: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_response_sizes", Help: "Bytes of answers to gets and lists.", Buckets: prometheus.ExponentialBuckets(1000, 10, 7),
		}, requestLabels),
		terminated: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_terminations_total", Help: "Requests that the server refused or ended to protect itself.",
		}, append(requestLabels[:len(requestLabels):len(requestLabels)], "code")),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_watch_events_total", Help: "Events sent to watches."}, what),
		eventBytes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_watch_events_sizes", Help: "Bytes of events sent to watches.", Buckets: prometheus.ExponentialBuckets(1024, 2, 8),
		}, what),
	}
	r.MustRegister(s.answers, s.terminated, s.events, s.eventBytes)
	return s
}

// answered notes the end of a request other than a watch or stream; kind are the
// requestLabels.
func (s *sizes) answered(x *exchange, kind []string) {
	switch {
	case x.status == http.StatusTooManyRequests:
		s.terminated.WithLabelValues(append(kind[:len(kind):len(kind)], "429")...).Inc()
	case x.status == http.StatusGatewayTimeout:
		s.terminated.WithLabelValues(append(kind[:len(kind):len(kind)], "504")...).Inc()
	case kind[0] == "GET", kind[0] == "LIST":
		s.answers.WithLabelValues(kind...).Observe(float64(x.written))
	}
}

// sent are the metrics of one watch, looked up once.
type sent struct {
	events prometheus.Counter
	bytes  prometheus.Observer
}

func (s *sizes) watch(t target) sent {
	return sent{s.events.WithLabelValues(t.Group, t.Version, t.Plural), s.eventBytes.WithLabelValues(t.Group, t.Version, t.Plural)}
}

// event notes one event of so many bytes.
func (s sent) event(bytes int) {
	s.events.Inc()
	s.bytes.Observe(float64(bytes))
}
