package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/kubelet/lifecycle"
	"proa/kubelet/logs"
)

// Handler serves the kubelet's API. Who may call it is the caller's to decide.
func (k *Kubelet) Handler() http.Handler { return k.handler }

func (k *Kubelet) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	m.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", k.handle(k.serveLogs))
	for _, pattern := range []string{"/{namespace}/{pod}/{container}", "/{namespace}/{pod}/{uid}/{container}"} {
		m.HandleFunc("/exec"+pattern, k.handle(k.serveExec))
		m.HandleFunc("/attach"+pattern, k.handle(k.serveAttach))
		m.HandleFunc("POST /run"+pattern, k.handle(k.serveRun))
	}
	m.HandleFunc("/portForward/{namespace}/{pod}", k.handle(k.servePortForward))
	m.HandleFunc("/portForward/{namespace}/{pod}/{uid}", k.handle(k.servePortForward))
	m.HandleFunc("GET /pods", k.servePods)
	m.HandleFunc("GET /runningpods/", k.servePods)
	m.HandleFunc("GET /configz", k.serveConfig)
	m.HandleFunc("GET /stats/summary", k.handle(k.serveSummary))
	m.HandleFunc("GET /metrics/resource", k.handle(k.serveResourceMetrics))
	return m
}

// handle answers an error as a Status.
func (k *Kubelet) handle(f func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := f(w, r)
		if err == nil {
			return
		}
		var st apierrors.APIStatus
		if !errors.As(err, &st) {
			st = apierrors.NewInternalError(err)
		}
		body := st.Status()
		body.Kind, body.APIVersion = "Status", "v1"
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(int(body.Code))
		_ = json.NewEncoder(w).Encode(body)
	}
}

// find is the pod that a request names.
func (k *Kubelet) find(r *http.Request) (*worker, *snapshot, error) {
	ns, name, uid := r.PathValue("namespace"), r.PathValue("pod"), types.UID(r.PathValue("uid"))
	for _, w := range k.all() {
		s := w.seen.Load()
		if s.pod.Namespace == ns && s.pod.Name == name && (uid == "" || uid == w.uid) {
			return w, s, nil
		}
	}
	return nil, nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
}

// status is what is shown of a container, or nil if the pod has none of that name.
func (s *snapshot) status(name string) *corev1.ContainerStatus {
	st := &s.pod.Status
	for _, list := range [][]corev1.ContainerStatus{st.ContainerStatuses, st.InitContainerStatuses, st.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// instance is the one of the given ID as it is shown ("proa://…"), or nil.
func (s *snapshot) instance(id string) *cri.ContainerStatus {
	_, id, _ = strings.Cut(id, "://")
	for _, c := range s.containers {
		if c.Id == id {
			return c
		}
	}
	return nil
}

// running is the instance that a request means to talk to.
func (k *Kubelet) running(r *http.Request) (*cri.ContainerStatus, error) {
	_, s, err := k.find(r)
	if err != nil {
		return nil, err
	}
	name := r.PathValue("container")
	st := s.status(name)
	if st == nil {
		return nil, apierrors.NewNotFound(corev1.Resource("containers"), name)
	}
	if c := s.instance(st.ContainerID); c != nil && st.State.Running != nil {
		return c, nil
	}
	return nil, &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError,
		Code: http.StatusInternalServerError, Message: fmt.Sprintf("container not found (%q)", name)}}
}

// logged is the ID of the instance whose log is wanted: the current one, or with
// previous the one before it. One that waits shows the last that ran.
func logged(st *corev1.ContainerStatus, pod string, previous bool) (string, error) {
	last := st.LastTerminationState.Terminated
	switch {
	case previous && (last == nil || last.ContainerID == ""):
		return "", apierrors.NewBadRequest(fmt.Sprintf("previous terminated container %q in pod %q not found", st.Name, pod))
	case previous, st.State.Waiting != nil && last != nil:
		return last.ContainerID, nil
	case st.State.Waiting != nil:
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is waiting to start: %s", st.Name, pod, waitReason(st.State.Waiting.Reason)))
	}
	return st.ContainerID, nil
}

func waitReason(reason string) string {
	switch reason {
	case lifecycle.ReasonPullFailed:
		return "image can't be pulled"
	case lifecycle.ReasonPullBackoff:
		return "trying and failing to pull image"
	}
	return reason
}

func (k *Kubelet) serveLogs(rw http.ResponseWriter, r *http.Request) error {
	w, s, err := k.find(r)
	if err != nil {
		return err
	}
	name, q := r.PathValue("container"), r.URL.Query()
	st := s.status(name)
	if st == nil {
		return apierrors.NewNotFound(corev1.Resource("containers"), name)
	}
	o, err := logOptions(q, time.Now())
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	id, err := logged(st, s.pod.Name, boolOf(q, "previous"))
	if err != nil {
		return err
	}
	c := s.instance(id)
	if c == nil {
		return apierrors.NewBadRequest(fmt.Sprintf("the log of container %q in pod %q is not kept any more", name, s.pod.Name))
	}
	if o.Follow && c.State == cri.ContainerState_CONTAINER_RUNNING {
		ended, release := w.exit(c.Id)
		defer release()
		o.Ended = ended
	}
	return k.sendLogs(rw, r, logPath(k.node, s.pod, c), o)
}

func (k *Kubelet) sendLogs(rw http.ResponseWriter, r *http.Request, path string, o logs.Options) error {
	rw.Header().Set("Content-Type", "text/plain")
	out := &flusher{w: rw}
	if o.Follow {
		out.flush = http.NewResponseController(rw).Flush
		rw.WriteHeader(http.StatusOK)
		_ = out.flush()
	}
	if o.Stdout != nil {
		o.Stdout = out
	}
	if o.Stderr != nil {
		o.Stderr = out
	}
	err := logs.Read(r.Context(), path, o)
	if out.wrote || o.Follow { // too late for another answer
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return apierrors.NewNotFound(corev1.Resource("logs"), path)
	}
	return err
}

// flusher sends each line on at once while following.
type flusher struct {
	w     http.ResponseWriter
	flush func() error
	wrote bool
}

func (f *flusher) Write(p []byte) (int, error) {
	f.wrote = true
	n, err := f.w.Write(p)
	if err == nil && f.flush != nil {
		err = f.flush()
	}
	return n, err
}

func boolOf(q url.Values, name string) bool {
	b, err := strconv.ParseBool(q.Get(name))
	return err == nil && b || q.Has(name) && q.Get(name) == ""
}

// logOptions reads the query of a log request, which is a v1.PodLogOptions.
func logOptions(q url.Values, now time.Time) (logs.Options, error) {
	discard := &flusher{}
	o := logs.Options{Follow: boolOf(q, "follow"), Timestamps: boolOf(q, "timestamps"), Tail: -1, Limit: -1, Stdout: discard, Stderr: discard}
	for name, to := range map[string]*int64{"tailLines": &o.Tail, "limitBytes": &o.Limit} {
		if s := q.Get(name); s != "" {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil || n < 0 || name == "limitBytes" && n < 1 {
				return o, fmt.Errorf("invalid value of %s: %q", name, s)
			}
			*to = n
		}
	}
	if s := q.Get("sinceSeconds"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 1 {
			return o, fmt.Errorf("invalid value of sinceSeconds: %q", s)
		}
		o.Since = now.Add(-time.Duration(n) * time.Second)
	}
	if s := q.Get("sinceTime"); s != "" {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			return o, fmt.Errorf("invalid value of sinceTime: %q", s)
		}
		o.Since = t
	}
	switch stream := q.Get("stream"); stream {
	case "", corev1.LogStreamAll:
	case corev1.LogStreamStdout:
		o.Stderr = nil
	case corev1.LogStreamStderr:
		o.Stdout = nil
	default:
		return o, fmt.Errorf("invalid value of stream: %q", stream)
	}
	return o, nil
}

// streamFlags are what exec and attach are asked to connect, by the names of
// v1.PodExecOptions or by the kubelet's own.
func streamFlags(q url.Values) (stdin, stdout, stderr, tty bool) {
	flag := func(a, b string) bool { return boolOf(q, a) || boolOf(q, b) }
	return flag("stdin", "input"), flag("stdout", "output"), flag("stderr", "error"), flag("tty", "tty")
}

func (k *Kubelet) serveExec(rw http.ResponseWriter, r *http.Request) error {
	c, err := k.running(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	in, out, errs, tty := streamFlags(q)
	got, err := k.cfg.Runtime.Exec(r.Context(), &cri.ExecRequest{ContainerId: c.Id, Cmd: q["command"], Stdin: in, Stdout: out, Stderr: errs && !tty, Tty: tty})
	if err != nil {
		return err
	}
	return k.stream(rw, r, got.Url)
}

func (k *Kubelet) serveAttach(rw http.ResponseWriter, r *http.Request) error {
	c, err := k.running(r)
	if err != nil {
		return err
	}
	in, out, errs, tty := streamFlags(r.URL.Query())
	got, err := k.cfg.Runtime.Attach(r.Context(), &cri.AttachRequest{ContainerId: c.Id, Stdin: in, Stdout: out, Stderr: errs && !tty, Tty: tty})
	if err != nil {
		return err
	}
	return k.stream(rw, r, got.Url)
}

func (k *Kubelet) servePortForward(rw http.ResponseWriter, r *http.Request) error {
	_, s, err := k.find(r)
	if err != nil {
		return err
	}
	sb := lifecycle.NewestSandbox(s.sandboxes)
	if sb == nil || sb.State != cri.PodSandboxState_SANDBOX_READY {
		return apierrors.NewInternalError(fmt.Errorf("pod %s has no running sandbox", s.pod.Name))
	}
	req := &cri.PortForwardRequest{PodSandboxId: sb.Id}
	for _, p := range r.URL.Query()["port"] {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("invalid port %q", p))
		}
		req.Port = append(req.Port, int32(n))
	}
	got, err := k.cfg.Runtime.PortForward(r.Context(), req)
	if err != nil {
		return err
	}
	return k.stream(rw, r, got.Url)
}

// serveRun runs a command to its end and answers with what it printed.
func (k *Kubelet) serveRun(rw http.ResponseWriter, r *http.Request) error {
	c, err := k.running(r)
	if err != nil {
		return err
	}
	out, errs, err := k.cfg.Runtime.ExecSync(r.Context(), c.Id, strings.Fields(r.URL.Query().Get("cmd")), 0)
	if err != nil {
		return err
	}
	_, _ = rw.Write(append(out, errs...))
	return nil
}

// stream hands the connection to where the runtime serves it: in process when the
// address is a path only, else by proxy.
func (k *Kubelet) stream(rw http.ResponseWriter, r *http.Request, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	if u.Host == "" {
		next := r.Clone(r.Context())
		next.URL.Path, next.URL.RawPath, next.URL.RawQuery = u.Path, "", u.RawQuery
		next.RequestURI = next.URL.RequestURI()
		k.cfg.Streams.ServeHTTP(rw, next)
		return nil
	}
	proxy := httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.Out.URL, p.Out.Host = u, u.Host }}
	proxy.ServeHTTP(rw, r)
	return nil
}

func (k *Kubelet) servePods(rw http.ResponseWriter, _ *http.Request) {
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, w := range k.all() {
		list.Items = append(list.Items, *w.seen.Load().pod)
	}
	answer(rw, list)
}

func answer(rw http.ResponseWriter, v any) {
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(v)
}

// serveConfig shows the settings by the names of kubelet.config.k8s.io/v1beta1.
func (k *Kubelet) serveConfig(rw http.ResponseWriter, _ *http.Request) {
	answer(rw, map[string]any{"kubeletconfig": map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"clusterDNS": k.node.ClusterDNS, "clusterDomain": k.node.ClusterDomain, "maxPods": k.cfg.MaxPods,
		"cgroupRoot": "/" + k.cfg.CgroupRoot, "cgroupDriver": "cgroupfs", "seccompDefault": true,
		"containerLogMaxSize": "10Mi", "containerLogMaxFiles": maxLogFiles, "nodeLeaseDurationSeconds": int(leaseFor / time.Second),
		"nodeStatusReportFrequency": statusEvery.String(), "resolvConf": k.cfg.ResolvConf,
	}})
}
