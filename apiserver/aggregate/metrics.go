package aggregate

import "github.com/prometheus/client_golang/prometheus"

var unavailableServices = prometheus.NewDesc("aggregator_unavailable_apiservice",
	"Whether an APIService of another server is unavailable now (1) or not (0).", []string{"name"}, nil)

// Describe and Collect make an Aggregator a prometheus.Collector.
func (a *Aggregator) Describe(ch chan<- *prometheus.Desc) { ch <- unavailableServices }

func (a *Aggregator) Collect(ch chan<- prometheus.Metric) {
	for _, s := range services(a.cfg.Store.Snapshot()) {
		value := 1.0
		if isAvailable(s) {
			value = 0
		}
		if s.Spec.Service != nil {
			ch <- prometheus.MustNewConstMetric(unavailableServices, prometheus.GaugeValue, value, s.Name)
		}
	}
}
