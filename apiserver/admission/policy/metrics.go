package policy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are upstream's, by upstream's names.
type metrics struct {
	checks  *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	labels := []string{"policy", "policy_binding", "error_type", "enforcement_action"}
	m := &metrics{
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_validating_admission_policy_check_total", Help: "Validations that did not pass, by policy, binding, error and what was done.",
		}, labels),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_validating_admission_policy_check_duration_seconds", Help: "Time to evaluate a policy, CEL and all.",
			Buckets: []float64{.0000005, .001, .01, .1, 1},
		}, labels),
	}
	if r != nil {
		r.MustRegister(m.checks, m.seconds)
	}
	return m
}

func (m *metrics) checked(policy, binding, action string, v verdict, took time.Duration) {
	kind := "no_error"
	if v.failed {
		kind = "invalid_error"
	}
	m.checks.WithLabelValues(policy, binding, kind, action).Inc()
	m.seconds.WithLabelValues(policy, binding, kind, action).Observe(took.Seconds())
}
