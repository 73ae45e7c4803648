package apiserver

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// sli shows the histogram of durations once more under the name that upstream's
// service levels are defined by, when somebody asks: a request is observed once.
// Dry runs do not count. Time in webhooks does, which upstream leaves out.
type sli struct{ of *prometheus.HistogramVec }

var sliSeconds = prometheus.NewDesc("apiserver_request_sli_duration_seconds",
	"Time to answer a request other than a watch, stream or dry run.", requestLabels, nil)

func (s sli) Describe(ch chan<- *prometheus.Desc) { ch <- sliSeconds }

func (s sli) Collect(ch chan<- prometheus.Metric) {
	all := make(chan prometheus.Metric)
	go func() { // until Collect has read it all
		s.of.Collect(all)
		close(all)
	}()
	for m := range all {
		out := &dto.Metric{}
		if err := m.Write(out); err != nil {
			ch <- prometheus.NewInvalidMetric(sliSeconds, err)
		} else if wetRun(out) {
			ch <- renamed{out}
		}
	}
}

// wetRun tells whether a metric is of requests that were no dry runs, and takes
// the label that says so away.
func wetRun(m *dto.Metric) bool {
	for i, l := range m.Label {
		if l.GetName() == "dry_run" {
			m.Label = append(m.Label[:i:i], m.Label[i+1:]...)
			return l.GetValue() == ""
		}
	}
	return true
}

// renamed is a metric that was read, for another name.
type renamed struct{ read *dto.Metric }

func (r renamed) Desc() *prometheus.Desc { return sliSeconds }

func (r renamed) Write(out *dto.Metric) error {
	out.Label, out.Histogram = r.read.Label, r.read.Histogram
	return nil
}
