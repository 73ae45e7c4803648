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

// Metrics are the loop's collectors, for the daemon to register.
func Metrics() []prometheus.Collector { return []prometheus.Collector{attempts, seconds} }

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
