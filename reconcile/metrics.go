package reconcile

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	attempts = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "proa_reconcile_total",
		Help: "Attempts by controller and result (ok, moved, error).",
	}, []string{"controller", "result"})
	seconds = prometheus.NewSummaryVec(prometheus.SummaryOpts{
		Name: "proa_reconcile_seconds",
		Help: "Time of an attempt, decision and writes.",
	}, []string{"controller"})
)

// The queues' collectors have the names and labels of client-go's, which
// dashboards know.
var (
	depth   = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "workqueue_depth", Help: "Keys that wait for a worker."}, queueLabel)
	adds    = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "workqueue_adds_total", Help: "Keys that were put into the queue."}, queueLabel)
	retries = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "workqueue_retries_total", Help: "Attempts that will be made again."}, queueLabel)
	waited  = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "workqueue_queue_duration_seconds", Help: "Time that a key waits for a worker.", Buckets: queueBuckets}, queueLabel)
	worked = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "workqueue_work_duration_seconds", Help: "Time that a worker has a key.", Buckets: queueBuckets}, queueLabel)

	queueLabel   = []string{"name"}
	queueBuckets = prometheus.ExponentialBuckets(10e-9, 10, 10) // 10 ns to 10 s
)

// meters are one queue's.
type meters struct {
	depth          prometheus.Gauge
	adds, retries  prometheus.Counter
	waited, worked prometheus.Observer
}

func metersOf(name string) meters {
	return meters{
		depth: depth.WithLabelValues(name), adds: adds.WithLabelValues(name), retries: retries.WithLabelValues(name),
		waited: waited.WithLabelValues(name), worked: worked.WithLabelValues(name),
	}
}

// Metrics are the loop's collectors, for the daemon to register.
func Metrics() []prometheus.Collector {
	return []prometheus.Collector{attempts, seconds, depth, adds, retries, waited, worked}
}

func observe(controller string, took time.Duration, o outcome) {
	result := "ok"
	switch {
	case o.err != nil:
		result = "error"
	case o.moved:
		result = "moved"
	}
	attempts.WithLabelValues(controller, result).Inc()
	seconds.WithLabelValues(controller).Observe(took.Seconds())
}
