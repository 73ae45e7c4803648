package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

type exit int

func (e exit) Error() string   { return "exit" }
func (e exit) ExitStatus() int { return int(e) }

func run(h corev1.ProbeHandler, t Target) string {
	if t.Container == nil {
		t.Container = &corev1.Container{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 1}}}
	}
	t.PodIP = "127.0.0.1"
	err := Run(context.Background(), &h, 300*time.Millisecond, t)
	var f Failed
	switch {
	case err == nil:
		return "well"
	case errors.As(err, &f):
		return "failed: " + err.Error()
	}
	return "error: " + err.Error()
}

func TestExec(t *testing.T) {
	for want, result := range map[string]error{"well": nil, "failed: output": exit(3), "error: no shim": errors.New("no shim"),
		`failed: command timed out: ["x"] timed out after 300ms`: context.DeadlineExceeded} {
		got := run(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}, Target{
			Exec: func(context.Context, []string, time.Duration) ([]byte, error) { return []byte("output"), result }})
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "special" || r.Header.Get("X") != "y" || !strings.HasPrefix(r.UserAgent(), "kube-probe/") {
			w.WriteHeader(400)
		}
	})
	mux.Handle("/away", http.RedirectHandler("http://192.0.2.1/", 302))
	mux.Handle("/local", http.RedirectHandler("/bad", 302))
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for _, s := range []*httptest.Server{httptest.NewServer(mux), httptest.NewTLSServer(mux)} {
		defer s.Close()
		u, _ := url.Parse(s.URL)
		port, _ := strconv.Atoi(u.Port())
		for path, want := range map[string]string{"/ok": "well", "/away": "well", "/local": "failed: HTTP probe failed with statuscode: 503", "/bad": "failed: HTTP probe failed with statuscode: 503", "/slow": "failed: Get "} {
			got := run(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt(port), Scheme: corev1.URIScheme(strings.ToUpper(u.Scheme)),
				HTTPHeaders: []corev1.HTTPHeader{{Name: "Host", Value: "special"}, {Name: "X", Value: "y"}}}}, Target{})
			if !strings.HasPrefix(got, want) {
				t.Errorf("%s %s: %q, want %q", u.Scheme, path, got, want)
			}
		}
	}
	if got := run(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("nope")}}, Target{}); got != "error: invalid port number: nope" {
		t.Error(got)
	}
}

func TestTCPAndGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	server := grpc.NewServer()
	h := health.NewServer()
	h.SetServingStatus("sick", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	grpc_health_v1.RegisterHealthServer(server, h)
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	if got := run(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("db")}},
		Target{Container: &corev1.Container{Ports: []corev1.ContainerPort{{Name: "db", ContainerPort: int32(port)}}}}); got != "well" {
		t.Error(got)
	}
	sick := "sick"
	for want, a := range map[string]*corev1.GRPCAction{"well": {Port: int32(port)}, `failed: service unhealthy (responded with "NOT_SERVING")`: {Port: int32(port), Service: &sick}} {
		if got := run(corev1.ProbeHandler{GRPC: a}, Target{}); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	server.Stop()
	if got := run(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(port)}}, Target{}); !strings.HasPrefix(got, "failed: dial tcp") {
		t.Error(got)
	}
}

// TestLoop runs a series of answers against the clock: w(ell), f(ailed), e(rrored).
func TestLoop(t *testing.T) {
	for _, tc := range []struct {
		probe corev1.Probe
		says  string
		want  string
	}{
		{corev1.Probe{InitialDelaySeconds: 5, PeriodSeconds: 10, FailureThreshold: 3}, "wffwfff", "5s Healthy, 35s Healthy, 1m5s Unhealthy"},
		{corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, SuccessThreshold: 2}, "fwfww", "0s Unhealthy, 2s Unhealthy, 4s Healthy"},
		{corev1.Probe{PeriodSeconds: 1, FailureThreshold: 2}, "feef", "3s Unhealthy"},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			begin, i, bad := time.Now(), 0, 0
			var told []string
			Loop(ctx, &tc.probe, begin, func(context.Context) error {
				if i == len(tc.says) {
					cancel()
					return nil
				}
				i++
				return map[byte]error{'f': Failed("no"), 'e': errors.New("cannot")}[tc.says[i-1]]
			}, func(v Verdict) {
				told = append(told, fmt.Sprint(time.Since(begin), " ", []string{"", "Healthy", "Unhealthy"}[v]))
			}, func(error) { bad++ })
			if got := strings.Join(told, ", "); got != tc.want || bad != strings.Count(tc.says, "f")+strings.Count(tc.says, "e") {
				t.Errorf("%s: %s, want %s", tc.says, got, tc.want)
			}
		})
	}
}
