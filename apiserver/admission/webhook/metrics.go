package webhook

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/apiserver/admission"
)

// metrics are upstream's, by upstream's names.
type metrics struct {
	seconds    *prometheus.HistogramVec
	requests   *prometheus.CounterVec
	rejections *prometheus.CounterVec
	open       *prometheus.CounterVec
	exclusions *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_admission_" + name, Help: help}, labels)
	}
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_admission_webhook_admission_duration_seconds", Help: "Time that a webhook took, by name, type, operation and whether it refused.",
			Buckets: []float64{.005, .025, .1, .5, 1, 2.5, 10, 25},
		}, []string{"name", "type", "operation", "rejected"}),
		requests:   counter("webhook_request_total", "Requests to webhooks, by the status code of what came of it.", "name", "type", "operation", "code", "rejected"),
		rejections: counter("webhook_rejection_count", "Requests that a webhook refused or failed.", "name", "type", "operation", "error_type", "rejection_code"),
		open:       counter("webhook_fail_open_count", "Webhooks that failed and were passed over.", "name", "type"),
		exclusions: counter("match_condition_exclusions_total", "Requests that match conditions kept from a webhook.", "name", "kind", "type", "operation"),
	}
	if r != nil {
		r.MustRegister(m.seconds, m.requests, m.rejections, m.open, m.exclusions)
	}
	return m
}

func (h *hook) typeName() string {
	if h.mutating {
		return "admit"
	}
	return "validating"
}

func (m *metrics) asked(h *hook, op admission.Operation, d time.Duration, err error) {
	rejected, kind, code := err != nil, "no_error", int32(200)
	var failed *callError
	var status apierrors.APIStatus
	switch {
	case err == nil:
	case errors.As(err, &failed):
		rejected, kind, code = !h.ignore, "calling_webhook_error", failed.status
	case errors.As(err, &status):
		code = status.Status().Code
		if _, refused := err.(*denied); !refused {
			kind, code = "apiserver_internal_error", 0
		}
	}
	verdict := strconv.FormatBool(rejected)
	m.seconds.WithLabelValues(h.name, h.typeName(), string(op), verdict).Observe(d.Seconds())
	m.requests.WithLabelValues(h.name, h.typeName(), string(op), strconv.Itoa(int(code)), verdict).Inc()
	if rejected && !errors.Is(err, context.Canceled) {
		m.rejections.WithLabelValues(h.name, h.typeName(), string(op), kind, strconv.Itoa(int(min(code, 600)))).Inc()
	}
}

func (m *metrics) failedOpen(h *hook) { m.open.WithLabelValues(h.name, h.typeName()).Inc() }

func (m *metrics) excluded(h *hook, op admission.Operation) {
	m.exclusions.WithLabelValues(h.name, "webhook", h.typeName(), string(op)).Inc()
}
