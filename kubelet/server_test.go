package kubelet

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestWhichLog(t *testing.T) {
	ended := func(id string) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: id}}
	}
	runs := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	waits := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}
	for _, tc := range []struct {
		state, last    corev1.ContainerState
		current, prior string
	}{
		{runs, corev1.ContainerState{}, "now", `previous terminated container "app" in pod "p" not found`},
		{runs, ended("before"), "now", "before"},
		{ended("now"), ended("before"), "now", "before"},
		{waits, ended("before"), "before", "before"},
		{waits, corev1.ContainerState{}, `container "app" in pod "p" is waiting to start: trying and failing to pull image`, `previous terminated container "app" in pod "p" not found`},
	} {
		st := &corev1.ContainerStatus{Name: "app", ContainerID: "now", State: tc.state, LastTerminationState: tc.last}
		for previous, want := range map[bool]string{false: tc.current, true: tc.prior} {
			got, err := logged(st, "p", previous)
			if err != nil {
				got = err.Error()
			}
			if got != want {
				t.Errorf("state %+v, previous %v: %q, want %q", tc.state, previous, got, want)
			}
		}
	}
}

func TestLogOptions(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 1, 0, 0, time.UTC)
	parse := func(text string) (string, error) {
		q, _ := url.ParseQuery(text)
		o, err := logOptions(q, now)
		if err != nil {
			return err.Error(), err
		}
		return o.Since.Format(time.RFC3339), nil
	}
	for query, want := range map[string]string{
		"sinceSeconds=30":                "2026-01-01T00:00:30Z",
		"sinceTime=2026-01-01T00:00:10Z": "2026-01-01T00:00:10Z",
		"tailLines=-1":                   `invalid value of tailLines: "-1"`,
		"limitBytes=0":                   `invalid value of limitBytes: "0"`,
		"sinceSeconds=x":                 `invalid value of sinceSeconds: "x"`,
		"stream=Nope":                    `invalid value of stream: "Nope"`,
	} {
		if got, _ := parse(query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}

func TestServerAnswers(t *testing.T) {
	b := newBench(t)
	b.create(testPod("a"))
	b.await("a", "ready", ready)
	b.k.cfg.Streams = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("stream " + r.URL.Path)) })
	b.cri.execs = func(string, []string) (string, error) { return "ran", nil }
	for _, tc := range []struct {
		method, path string
		code         int
		part         string
	}{
		{"GET", "/healthz", 200, "ok"},
		{"GET", "/pods", 200, `"name":"a"`},
		{"GET", "/configz", 200, `"clusterDomain":"cluster.local"`},
		{"GET", "/containerLogs/default/nope/app", 404, `pods \"nope\" not found`},
		{"GET", "/containerLogs/default/a/nope", 404, `containers \"nope\" not found`},
		{"GET", "/containerLogs/default/a/app?tailLines=x", 400, `"reason":"BadRequest"`},
		{"GET", "/containerLogs/default/a/app?previous=true", 400, "previous terminated container"},
		{"POST", "/exec/default/a/app?command=x&output=1", 200, "stream /exec/1"},
		{"POST", "/exec/default/a/nope?command=x", 404, "not found"},
		{"POST", "/run/default/a/app?cmd=x", 200, "ran"},
		{"POST", "/portForward/default/a?port=70000", 400, "invalid port"},
		{"POST", "/portForward/default/a?port=80", 200, "stream /portforward/1"},
	} {
		rec := httptest.NewRecorder()
		b.k.Handler().ServeHTTP(rec, httptest.NewRequest(tc.method, tc.path, nil))
		if rec.Code != tc.code || !strings.Contains(rec.Body.String(), tc.part) {
			t.Errorf("%s %s: %d %s, want %d with %s", tc.method, tc.path, rec.Code, rec.Body, tc.code, tc.part)
		}
	}
}

func TestPodStats(t *testing.T) {
	v := func(n uint64) *cri.UInt64Value { return &cri.UInt64Value{Value: n} }
	p := podStats(&cri.PodSandboxStats{Attributes: &cri.PodSandboxAttributes{Metadata: &cri.PodSandboxMetadata{Name: "a", Namespace: "ns"}},
		Linux: &cri.LinuxPodSandboxStats{Cpu: &cri.CpuUsage{UsageCoreNanoSeconds: v(2e9)}, Memory: &cri.MemoryUsage{WorkingSetBytes: v(42)},
			Containers: []*cri.ContainerStats{{Attributes: &cri.ContainerAttributes{Metadata: &cri.ContainerMetadata{Name: "app"}}, Cpu: &cri.CpuUsage{UsageCoreNanoSeconds: v(1e9)}}}}})
	if p.PodRef.Name != "a" || *p.CPU.UsageCoreNanoSeconds != 2e9 || *p.Memory.WorkingSetBytes != 42 || p.Containers[0].Name != "app" {
		t.Errorf("%+v", p)
	}
	var out strings.Builder
	m := metricWriter{w: &out, typed: map[string]bool{}}
	m.cpu("pod_cpu_usage_seconds_total", `{pod="a"}`, p.CPU)
	m.memory("pod_memory_working_set_bytes", `{pod="a"}`, p.Memory)
	if got := out.String(); !strings.HasPrefix(got, "# TYPE pod_cpu_usage_seconds_total counter\npod_cpu_usage_seconds_total{pod=\"a\"} 2\n") || !strings.Contains(got, "pod_memory_working_set_bytes{pod=\"a\"} 42\n") {
		t.Error(got)
	}
}
