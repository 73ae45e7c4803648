package apiserver

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/store"
)

// metrics are what /metrics and /metrics/slis show, under upstream's names.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inflight *prometheus.GaugeVec
	long     *prometheus.GaugeVec
	sizes    sizes
	handler  http.Handler

	slis        http.Handler
	healthy     *prometheus.GaugeVec
	healthTotal *prometheus.CounterVec
}

// requestLabels say what a request was about, in the order of kindOf.
var requestLabels = []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total", Help: "Requests answered, by what they were about and status code.",
		}, append(requestLabels, "dry_run", "code")),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_request_duration_seconds", Help: "Time to answer a request other than a watch or stream.",
			Buckets: []float64{.005, .025, .05, .1, .2, .4, .6, .8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60},
			// In protobuf it is a native histogram as well (KEP-5808), in upstream's resolution.
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 160,
		}, append(requestLabels, "dry_run")),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_current_inflight_requests", Help: "Requests under way, other than watches and streams.",
		}, []string{"request_kind"}),
		long: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_longrunning_requests", Help: "Watches and streams open now, by what they are about.",
		}, requestLabels),
	}
	m.sizes = newSizes(m.registry)
	m.registry.MustRegister(m.requests, m.seconds, sli{m.seconds}, m.inflight, m.long, buildInfo(), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	m.measureHealth()
	return m
}

// measureHealth makes what /metrics/slis shows.
func (m *metrics) measureHealth() {
	m.healthy = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "kubernetes_healthcheck", Help: "The last result of a health check, 1 for success."}, []string{"name", "type"})
	m.healthTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kubernetes_healthchecks_total", Help: "Results of health checks."}, []string{"name", "type", "status"})
	slis := prometheus.NewRegistry()
	slis.MustRegister(m.healthy, m.healthTotal)
	m.slis = promhttp.HandlerFor(slis, promhttp.HandlerOpts{})
}

// checked notes the result of one health check.
func (m *metrics) checked(name, endpoint string, err error) {
	status, value := "success", 1.0
	if err != nil {
		status, value = "error", 0
	}
	m.healthy.WithLabelValues(name, endpoint).Set(value)
	m.healthTotal.WithLabelValues(name, endpoint, status).Inc()
}

func buildInfo() prometheus.Collector {
	v := Version()
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubernetes_build_info", Help: "Always 1; the labels say which version this is.",
		ConstLabels: prometheus.Labels{"major": v.Major, "minor": v.Minor, "git_version": v.GitVersion, "git_tree_state": v.GitTreeState,
			"go_version": v.GoVersion, "compiler": v.Compiler, "platform": v.Platform}})
	g.Set(1)
	return g
}

// kindOf are the labels of what a request is about. Names that nothing here has do
// not become labels: a client must not be able to grow the set.
func (s *Server) kindOf(x *exchange) []string {
	t := x.t
	if t.Resource && !s.knows(t) {
		t = target{Verb: t.Verb}
	}
	scope := ""
	switch {
	case !t.Resource:
	case t.Name != "" && !t.collection():
		scope = "resource"
	case t.Namespace != "":
		scope = "namespace"
	default:
		scope = "cluster"
	}
	return []string{verbLabel(x, t), t.Group, t.Version, t.Plural, t.Subresource, scope, "apiserver"}
}

func (s *Server) knows(t target) bool {
	served, ok := s.cfg.Registry.ByGVR(schema.GroupVersionResource{Group: t.Group, Version: t.Version, Resource: t.Plural})
	return ok && (t.Subresource == "" || served.Subresource(t.Subresource) != nil)
}

// verbLabel is upstream's name of a verb in metrics.
func verbLabel(x *exchange, t target) string {
	switch {
	case t.Subresource != "" && connects[t.Subresource] != nil:
		return "CONNECT"
	case t.Verb == "list", t.Verb == "watch":
		return strings.ToUpper(t.Verb)
	case x.r.Method == http.MethodPatch && strings.HasPrefix(x.r.Header.Get("Content-Type"), "application/apply-patch"):
		return "APPLY"
	}
	if _, known := methodVerbs[x.r.Method]; known {
		return x.r.Method
	}
	return "other"
}

// begin counts a request as under way until the result is called.
func (s *Server) begin(x *exchange, long bool) (end func()) {
	start, kind := time.Now(), s.kindOf(x)
	gauge := s.metrics.inflight.WithLabelValues(inflightKind(x.t))
	if long {
		gauge = s.metrics.long.WithLabelValues(kind...)
	}
	gauge.Inc()
	return func() {
		gauge.Dec()
		dry := ""
		if x.t.mutates() && x.r.URL.RawQuery != "" {
			dry = dryRunLabel(x.r.URL.Query()["dryRun"])
		}
		if !long {
			s.metrics.sizes.answered(x, kind)
		}
		kind := append(kind, dry)
		s.metrics.requests.WithLabelValues(append(kind, strconv.Itoa(x.status))...).Inc()
		if !long {
			s.metrics.seconds.WithLabelValues(kind...).Observe(time.Since(start).Seconds())
		}
	}
}

func inflightKind(t target) string {
	if t.mutates() {
		return "mutating"
	}
	return "readOnly"
}

func dryRunLabel(values []string) string {
	if len(values) == 1 && values[0] == "All" {
		return "All"
	}
	return ""
}

// stored counts what is stored, when somebody asks.
type stored struct{ s *Server }

var (
	storedObjects = prometheus.NewDesc("apiserver_storage_objects", "Objects stored, by resource.", []string{"resource"}, nil)
	groupObjects  = prometheus.NewDesc("apiserver_resource_objects", "Objects stored, by group and resource.", []string{"group", "resource"}, nil)
)

func (o stored) Describe(ch chan<- *prometheus.Desc) {
	ch <- storedObjects
	ch <- groupObjects
}

func (o stored) Collect(ch chan<- prometheus.Metric) {
	world := o.s.cfg.Store.Snapshot()
	for _, row := range o.s.cfg.Registry.All() {
		if row.NewList == nil {
			continue
		}
		n := float64(world.Count(store.Scope{Resource: row.Key()}))
		ch <- prometheus.MustNewConstMetric(storedObjects, prometheus.GaugeValue, n, row.GR().String())
		ch <- prometheus.MustNewConstMetric(groupObjects, prometheus.GaugeValue, n, row.Group, row.Plural)
	}
}

// Metrics is where other parts of the process register theirs.
func (s *Server) Metrics() prometheus.Registerer { return s.metrics.registry }
