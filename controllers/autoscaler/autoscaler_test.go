package autoscaler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"proa/client"
	"proa/client/clienttest"
	"proa/controllers/deployment"
	"proa/controllers/pods"
	"proa/controllers/replicaset"
	"proa/controllers/simulation"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// someShares makes n shares of one use and want each.
func someShares(n int, use, want float64) []share {
	out := make([]share, n)
	for i := range out {
		out[i] = share{use: use, want: want, full: want}
	}
	return out
}

func TestPerPod(t *testing.T) {
	even := tolerances{.1, .1}
	cases := []struct {
		name                    string
		current                 int32
		ready, missing, unready []share
		want                    int32
	}{
		{"twice the target, twice the pods", 3, someShares(3, 200, 100), nil, nil, 6},
		{"within the tolerance", 3, someShares(3, 109, 100), nil, nil, 3},
		{"half the target", 4, someShares(4, 50, 100), nil, nil, 2},
		{"rounded up", 3, someShares(3, 70, 100), nil, nil, 3},
		{"unready pods count as idle when growing", 3, someShares(2, 200, 100), nil, someShares(1, 0, 100), 4},
		{"unready pods are left out when shrinking", 3, someShares(2, 40, 100), nil, someShares(1, 0, 100), 1},
		{"missing pods count as idle when growing", 3, someShares(2, 200, 100), someShares(1, 0, 100), nil, 4},
		{"missing pods count as full when shrinking", 3, someShares(2, 25, 100), someShares(1, 0, 100), nil, 2},
		{"not the other way for the missing", 4, someShares(1, 150, 100), someShares(3, 0, 100), nil, 4},
	}
	for _, c := range cases {
		if got, _ := perPod(c.current, c.ready, c.missing, c.unready, even); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestLimits(t *testing.T) {
	rule := func(window int32, sel string, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
		s := autoscalingv2.ScalingPolicySelect(sel)
		return &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window, SelectPolicy: &s, Policies: policies}
	}
	podsPolicy := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 2, PeriodSeconds: 60}
	percent := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 50, PeriodSeconds: 60}
	cases := []struct {
		name          string
		m             Memory
		b             *autoscalingv2.HorizontalPodAutoscalerBehavior
		current, want int32
		n             int32
		reason        string
	}{
		{"by default at most double", Memory{}, nil, 10, 90, 20, "ScaleUpLimit"},
		{"by default at least four", Memory{}, nil, 1, 90, 5, "ScaleUpLimit"},
		{"the maximum", Memory{}, nil, 60, 150, 100, "TooManyReplicas"},
		{"the minimum", Memory{}, nil, 10, 0, 2, "TooFewReplicas"},
		{"in range", Memory{}, nil, 10, 8, 8, "DesiredWithinRange"},
		{"the greater of two", Memory{}, &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rule(0, "Max", podsPolicy, percent)}, 10, 90, 15, "ScaleUpLimit"},
		{"the lesser of two", Memory{}, &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rule(0, "Min", podsPolicy, percent)}, 10, 90, 12, "ScaleUpLimit"},
		{"what was done counts", Memory{ups: []point{{now.Add(-30 * time.Second), 2}}}, &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rule(0, "Max", podsPolicy)}, 12, 90, 12, "ScaleUpLimit"},
		{"what was done long ago does not", Memory{ups: []point{{now.Add(-90 * time.Second), 2}}}, &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: rule(0, "Max", podsPolicy)}, 12, 90, 14, "ScaleUpLimit"},
		{"down by the lesser", Memory{}, &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: rule(0, "Min", podsPolicy, percent)}, 10, 2, 8, "ScaleDownLimit"},
		{"down by the greater", Memory{}, &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: rule(0, "Max", podsPolicy, percent)}, 10, 2, 5, "ScaleDownLimit"},
		{"never down", Memory{}, &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: rule(0, "Disabled", podsPolicy)}, 10, 2, 10, "ScaleDownLimit"},
	}
	for _, c := range cases {
		if n, reason, _ := c.m.limit(now, c.current, c.want, 2, 100, c.b); n != c.n || reason != c.reason {
			t.Errorf("%s: %d %s, want %d %s", c.name, n, reason, c.n, c.reason)
		}
	}
}

func TestStabilize(t *testing.T) {
	m := Memory{recommendations: []point{{now.Add(-10 * time.Minute), 50}, {now.Add(-4 * time.Minute), 9}, {now.Add(-time.Minute), 3}}}
	if n, reason, _ := m.stabilize(now, 10, 3, nil); n != 9 || reason != "ScaleDownStabilized" {
		t.Errorf("%d %s: want the highest of five minutes", n, reason)
	}
	if n, _, _ := m.stabilize(now, 10, 20, nil); n != 20 {
		t.Errorf("%d: growth does not wait by default", n)
	}
	wait := int32(300)
	b := &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &wait}}
	if n, reason, _ := m.stabilize(now, 2, 20, b); n != 3 || reason != "ScaleUpStabilized" {
		t.Errorf("%d %s: want the lowest of five minutes", n, reason)
	}
}

const hpaText = `
metadata: {namespace: ns, name: h}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 2
  maxReplicas: 10
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]`

func object[T any](t *testing.T, text string) *T {
	t.Helper()
	out := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), out); err != nil {
		t.Fatal(err)
	}
	return out
}

func podOf(i int, requests string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("p", i), Labels: map[string]string{"app": "web"}}}
	_ = yaml.Unmarshal([]byte(`{containers: [{name: c, image: i, resources: {requests: {cpu: `+requests+`}}}]}`), &p.Spec)
	started := metav1.NewTime(now.Add(-time.Hour))
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &started,
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: started}}}
	return p
}

func conditions(s autoscalingv2.HorizontalPodAutoscalerStatus) string {
	var out []string
	for _, c := range s.Conditions {
		out = append(out, fmt.Sprintf("%s=%s:%s", c.Type, c.Status, c.Reason))
	}
	return strings.Join(out, " ")
}

func TestDecide(t *testing.T) {
	cpu := func(milli int64) Reading {
		r := Reading{Pods: map[string]Sample{}}
		for i := range 3 {
			r.Pods[fmt.Sprint("p", i)] = Sample{Milli: milli, At: now, Window: time.Minute}
		}
		return r
	}
	cases := []struct {
		name    string
		target  Target
		reading Reading
		size    int32 // 0: stays
		want    string
	}{
		{"no target", Target{Err: errors.New("gone")}, Reading{}, 0, "AbleToScale=False:FailedGetScale"},
		{"switched off", Target{Selector: "app=web"}, Reading{}, 0, "AbleToScale=True:SucceededGetScale ScalingActive=False:ScalingDisabled"},
		{"too many", Target{Spec: 30, Status: 30, Selector: "app=web"}, Reading{}, 10, "AbleToScale=True:SucceededGetScale"},
		{"busy", Target{Spec: 3, Status: 3, Selector: "app=web"}, cpu(100), 6, "AbleToScale=True:ReadyForNewScale ScalingActive=True:ValidMetricFound ScalingLimited=False:DesiredWithinRange"},
		{"as it should be", Target{Spec: 3, Status: 3, Selector: "app=web"}, cpu(50), 0, "AbleToScale=True:ReadyForNewScale ScalingActive=True:ValidMetricFound ScalingLimited=False:DesiredWithinRange"},
		{"idle", Target{Spec: 3, Status: 3, Selector: "app=web"}, cpu(1), 2, "AbleToScale=True:ReadyForNewScale ScalingActive=True:ValidMetricFound ScalingLimited=True:TooFewReplicas"},
		{"no metrics", Target{Spec: 3, Status: 3, Selector: "app=web"}, Reading{Err: errors.New("no server")}, 0, "AbleToScale=True:SucceededGetScale ScalingActive=False:FailedGetResourceMetric"},
		{"no selector", Target{Spec: 3, Status: 3}, cpu(1), 0, "AbleToScale=True:SucceededGetScale ScalingActive=False:InvalidSelector"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			in := Input{HPA: object[autoscalingv2.HorizontalPodAutoscaler](t, hpaText), Target: c.target, Readings: []Reading{c.reading},
				Pods: []*corev1.Pod{podOf(0, "100m"), podOf(1, "100m"), podOf(2, "100m")}, Now: now}
			out := Decide(in)
			size := int32(0)
			if out.Rescale != nil {
				size = *out.Rescale
			}
			if got := conditions(out.Status); size != c.size || got != c.want {
				t.Errorf("size %d, want %d\ngot  %s\nwant %s", size, c.size, got, c.want)
			}
		})
	}
}

// load is a metrics server whose running pods share a load evenly.
type load struct {
	c     *clienttest.Client
	bytes atomic.Int64
}

func (l *load) Read(_ context.Context, namespace, _ string, _ *autoscalingv2.MetricSpec) Reading {
	r := Reading{Pods: map[string]Sample{}}
	for p := range client.List[corev1.Pod](l.c.View(), namespace) {
		if pods.Ready(p) {
			r.Pods[p.Name] = Sample{At: time.Now(), Window: 30 * time.Second}
		}
	}
	for name, s := range r.Pods {
		s.Milli = l.bytes.Load() * 1000 / int64(len(r.Pods))
		r.Pods[name] = s
	}
	return r
}

// A load that rises and falls is followed, without swinging, and an unchanged
// load leaves the size alone. Without autoscalers nothing happens at all.
func TestFollowsALoad(t *testing.T) {
	simulation.Run(t, nil, func(ctx context.Context, c *simulation.Cluster) {
		d := object[appsv1.Deployment](t, `
metadata: {namespace: ns, name: web}
spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: i, resources: {requests: {memory: "100"}}}]}}}`)
		if _, err := c.Create(ctx, d); err != nil {
			t.Fatal(err)
		}
		l := &load{c: c.Client}
		l.bytes.Store(100)
		run, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- Run(run, Config{Client: c, Metrics: l, Log: slog.New(slog.DiscardHandler)}) }()
		time.Sleep(time.Minute)
		at := c.View().Revision()
		time.Sleep(time.Hour)
		if c.View().Revision() != at {
			t.Error("something was written without an autoscaler")
		}
		if _, err := c.Create(ctx, object[autoscalingv2.HorizontalPodAutoscaler](t, strings.ReplaceAll(hpaText, "cpu", "memory"))); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			bytes int64
			wait  time.Duration
			size  int32
		}{{100, time.Minute, 2}, {400, time.Minute, 8}, {100, 4 * time.Minute, 8}, {100, 4 * time.Minute, 2}, {2000, 5 * time.Minute, 10}} {
			l.bytes.Store(step.bytes)
			time.Sleep(step.wait)
			synctest.Wait()
			if got := *client.Get[appsv1.Deployment](c.View(), "ns", "web").Spec.Replicas; got != step.size {
				t.Errorf("load %d for %s: %d replicas, want %d (%s)", step.bytes, step.wait, got, step.size,
					conditions(client.Get[autoscalingv2.HorizontalPodAutoscaler](c.View(), "ns", "h").Status))
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}, deployment.Controller(), replicaset.Controller())
}

func TestReadsTheMetricsGroups(t *testing.T) {
	answers := map[string]string{
		"/apis/metrics.k8s.io/v1beta1/namespaces/ns/pods?labelSelector=app%3Dweb":              `{"items":[{"metadata":{"name":"p0"},"timestamp":"2026-01-01T00:00:00Z","window":"30s","containers":[{"name":"a","usage":{"cpu":"100m"}},{"name":"b","usage":{"cpu":"50m"}}]}]}`,
		"/apis/custom.metrics.k8s.io/v1beta2/namespaces/ns/ingresses.networking.k8s.io/i/rps?": `{"items":[{"value":"1500m"}]}`,
		"/apis/external.metrics.k8s.io/v1beta1/namespaces/ns/queue?labelSelector=q%3Da":        `{"items":[{"value":"3"},{"value":"4"}]}`,
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := answers[r.URL.Path+"?"+r.URL.RawQuery]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			body = `{"kind":"Status","status":"Failure","reason":"NotFound","message":"the server could not find the requested resource","code":404}`
		}
		_, _ = w.Write([]byte(body))
	}))
	defer srv.Close()
	a := &API{Base: srv.URL, HTTP: srv.Client()}
	read := func(text string) Reading {
		return a.Read(t.Context(), "ns", "app=web", object[autoscalingv2.MetricSpec](t, text))
	}
	if r := read(`{type: Resource, resource: {name: cpu, target: {}}}`); r.Err != nil || r.Pods["p0"].Milli != 150 || r.Pods["p0"].Window != 30*time.Second {
		t.Errorf("%+v", r)
	}
	if r := read(`{type: ContainerResource, containerResource: {name: cpu, container: b, target: {}}}`); r.Err != nil || r.Pods["p0"].Milli != 50 {
		t.Errorf("%+v", r)
	}
	if r := read(`{type: Object, object: {describedObject: {apiVersion: networking.k8s.io/v1, kind: Ingress, name: i}, metric: {name: rps}, target: {}}}`); r.Err != nil || r.Value != 1500 {
		t.Errorf("%+v", r)
	}
	if r := read(`{type: External, external: {metric: {name: queue, selector: {matchLabels: {q: a}}}, target: {}}}`); r.Err != nil || r.Value != 7000 {
		t.Errorf("%+v", r)
	}
	if r := read(`{type: Pods, pods: {metric: {name: none}, target: {}}}`); r.Err == nil || !strings.Contains(r.Err.Error(), "could not find the requested resource") {
		t.Errorf("%+v", r)
	}
}
