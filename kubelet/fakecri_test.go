package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	criapi "k8s.io/cri-api/pkg/apis"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/kubelet/lifecycle"
)

// fakeCRI is a container runtime without containers: it keeps the books and the
// promises of one, and fails when told to.
type fakeCRI struct {
	criapi.RuntimeService // what is not below is not called
	mu                    sync.Mutex
	next                  int
	sandboxes             map[string]*cri.PodSandboxStatus
	containers            map[string]*fakeContainer
	images                map[string]*cri.Image
	events                chan *cri.ContainerEventResponse
	faults                map[string]error // by call; taken once unless sticky
	sticky                bool
	calls                 []string
	ignoreTERM            bool // processes end by SIGKILL only
	execs                 func(id string, cmd []string) (string, error)
	slowPull              time.Duration
	twice                 []string // violations: two instances of one container at once
	broken                chan struct{}
}

type fakeContainer struct {
	st     *cri.ContainerStatus
	pod    string
	logDir string
	config *cri.ContainerConfig
	killed chan struct{}
}

func newFakeCRI() *fakeCRI {
	return &fakeCRI{
		sandboxes: map[string]*cri.PodSandboxStatus{}, containers: map[string]*fakeContainer{}, faults: map[string]error{},
		images: map[string]*cri.Image{"app:1": {Id: "sha256:aa", RepoTags: []string{"app:1"}, Size: 10}},
		events: make(chan *cri.ContainerEventResponse, 1000), broken: make(chan struct{}),
	}
}

func (f *fakeCRI) called(call string) error {
	f.calls = append(f.calls, call)
	name, _, _ := strings.Cut(call, " ")
	err := f.faults[name]
	if !f.sticky {
		delete(f.faults, name)
	}
	return err
}

func (f *fakeCRI) fail(call string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults[call] = err
}

// stick is fail for every call from now on; nil ends it.
func (f *fakeCRI) stick(call string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sticky, f.faults[call] = err != nil, err
}

func (f *fakeCRI) log() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// emit tells of a pod. The caller holds mu.
func (f *fakeCRI) emit(uid, id string, t cri.ContainerEventType) {
	for _, s := range f.sandboxes {
		if s.Metadata.Uid == uid {
			f.events <- &cri.ContainerEventResponse{ContainerId: id, ContainerEventType: t, PodSandboxStatus: s}
			return
		}
	}
}

func (f *fakeCRI) Version(context.Context, string) (*cri.VersionResponse, error) {
	return &cri.VersionResponse{RuntimeName: "proa", RuntimeVersion: "0", RuntimeApiVersion: "v1"}, nil
}

func (f *fakeCRI) Status(context.Context, bool) (*cri.StatusResponse, error) {
	return &cri.StatusResponse{Status: &cri.RuntimeStatus{Conditions: []*cri.RuntimeCondition{
		{Type: "RuntimeReady", Status: true}, {Type: "NetworkReady", Status: true}}}}, nil
}

func (f *fakeCRI) GetContainerEvents(ctx context.Context, ch chan *cri.ContainerEventResponse, established func(cri.RuntimeService_GetContainerEventsClient)) error {
	established(nil)
	f.mu.Lock()
	broken := f.broken
	f.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-broken:
			return errors.New("the stream broke")
		case e := <-f.events:
			ch <- e
		}
	}
}

// breakEvents ends the stream; what happens until it is opened again is lost.
func (f *fakeCRI) breakEvents(lose func()) {
	f.mu.Lock()
	close(f.broken)
	f.mu.Unlock()
	lose()
	f.mu.Lock()
	for len(f.events) > 0 {
		<-f.events
	}
	f.broken = make(chan struct{})
	f.mu.Unlock()
}

func (f *fakeCRI) RunPodSandbox(ctx context.Context, c *cri.PodSandboxConfig, _ string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.called("RunPodSandbox"); err != nil {
		return "", err
	}
	f.next++
	id := fmt.Sprintf("sandbox%d", f.next)
	f.sandboxes[id] = &cri.PodSandboxStatus{Id: id, Metadata: c.Metadata, State: cri.PodSandboxState_SANDBOX_READY, CreatedAt: time.Now().UnixNano(),
		Network: &cri.PodSandboxNetworkStatus{Ip: fmt.Sprintf("10.9.0.%d", f.next)}, Labels: c.Labels, Annotations: c.Annotations}
	f.emit(c.Metadata.Uid, id, cri.ContainerEventType_CONTAINER_STARTED_EVENT)
	return id, nil
}

func (f *fakeCRI) StopPodSandbox(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.called("StopPodSandbox " + id); err != nil {
		return err
	}
	if s := f.sandboxes[id]; s != nil {
		next := proto.Clone(s).(*cri.PodSandboxStatus)
		next.State = cri.PodSandboxState_SANDBOX_NOTREADY
		f.sandboxes[id] = next
		for cid, c := range f.containers {
			if c.config.Labels[lifecycle.LabelSandbox] == id {
				f.exit(cid, 137)
			}
		}
	}
	return nil
}

func (f *fakeCRI) RemovePodSandbox(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.called("RemovePodSandbox " + id); err != nil {
		return err
	}
	for cid, c := range f.containers {
		if c.config.Labels[lifecycle.LabelSandbox] == id {
			delete(f.containers, cid)
		}
	}
	delete(f.sandboxes, id)
	return nil
}

func selected(labels map[string]string, selector map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (f *fakeCRI) ListPodSandbox(_ context.Context, filter *cri.PodSandboxFilter) ([]*cri.PodSandbox, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.called("ListPodSandbox"); err != nil {
		return nil, err
	}
	var out []*cri.PodSandbox
	for _, s := range f.sandboxes {
		if selected(s.Labels, filter.GetLabelSelector()) {
			out = append(out, &cri.PodSandbox{Id: s.Id, Metadata: s.Metadata, State: s.State, Labels: s.Labels})
		}
	}
	return out, nil
}

func (f *fakeCRI) PodSandboxStatus(_ context.Context, id string, _ bool) (*cri.PodSandboxStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.sandboxes[id]; s != nil {
		return &cri.PodSandboxStatusResponse{Status: s}, nil
	}
	return nil, status.Error(codes.NotFound, "no such sandbox")
}

func (f *fakeCRI) ListContainers(_ context.Context, filter *cri.ContainerFilter) ([]*cri.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*cri.Container
	for id, c := range f.containers {
		if selected(c.st.Labels, filter.GetLabelSelector()) {
			out = append(out, &cri.Container{Id: id, Metadata: c.st.Metadata, State: c.st.State, Labels: c.st.Labels})
		}
	}
	return out, nil
}

func (f *fakeCRI) ContainerStatus(_ context.Context, id string, _ bool) (*cri.ContainerStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.containers[id]; c != nil {
		return &cri.ContainerStatusResponse{Status: c.st}, nil
	}
	return nil, status.Error(codes.NotFound, "no such container")
}

func (f *fakeCRI) CreateContainer(_ context.Context, sandbox string, c *cri.ContainerConfig, s *cri.PodSandboxConfig) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.called("CreateContainer " + c.Metadata.Name); err != nil {
		return "", err
	}
	f.next++
	id := fmt.Sprintf("container%d", f.next)
	f.containers[id] = &fakeContainer{pod: s.Metadata.Uid, logDir: s.LogDirectory, config: c, killed: make(chan struct{}), st: &cri.ContainerStatus{
		Id: id, Metadata: c.Metadata, State: cri.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano(),
		Image: c.Image, ImageRef: c.Image.Image, Labels: c.Labels, Annotations: c.Annotations,
	}}
	return id, nil
}

func (f *fakeCRI) StartContainer(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	if err := f.called("StartContainer " + c.st.Metadata.Name); err != nil {
		return err
	}
	for _, o := range f.containers {
		if o != c && o.pod == c.pod && o.st.Metadata.Name == c.st.Metadata.Name && o.st.State == cri.ContainerState_CONTAINER_RUNNING {
			f.twice = append(f.twice, c.st.Metadata.Name)
		}
	}
	next := proto.Clone(c.st).(*cri.ContainerStatus)
	next.State, next.StartedAt = cri.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	c.st = next
	path := filepath.Join(c.logDir, c.config.LogPath)
	line := time.Now().UTC().Format(time.RFC3339Nano) + " stdout F hello from " + next.Metadata.Name + fmt.Sprint(next.Metadata.Attempt) + "\n"
	if err := os.WriteFile(path, []byte(line), 0o644); err != nil {
		return err
	}
	f.emit(c.pod, id, cri.ContainerEventType_CONTAINER_STARTED_EVENT)
	return nil
}

// exit ends a process. The caller holds mu.
func (f *fakeCRI) exit(id string, code int32) {
	c := f.containers[id]
	if c == nil || c.st.State != cri.ContainerState_CONTAINER_RUNNING {
		return
	}
	next := proto.Clone(c.st).(*cri.ContainerStatus)
	next.State, next.FinishedAt, next.ExitCode = cri.ContainerState_CONTAINER_EXITED, time.Now().UnixNano(), code
	c.st = next
	close(c.killed)
	f.emit(c.pod, id, cri.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

// end is exit of the running instance of a container, by name.
func (f *fakeCRI) end(name string, code int32) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, c := range f.containers {
		if c.st.Metadata.Name == name && c.st.State == cri.ContainerState_CONTAINER_RUNNING {
			f.exit(id, code)
			return true
		}
	}
	return false
}

func (f *fakeCRI) StopContainer(ctx context.Context, id string, timeout int64) error {
	f.mu.Lock()
	c := f.containers[id]
	if c == nil {
		f.mu.Unlock()
		return status.Error(codes.NotFound, "no such container")
	}
	if err := f.called(fmt.Sprintf("StopContainer %s %d", c.st.Metadata.Name, timeout)); err != nil {
		f.mu.Unlock()
		return err
	}
	if !f.ignoreTERM {
		f.exit(id, 143)
	}
	f.mu.Unlock()
	select {
	case <-c.killed:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Duration(timeout) * time.Second):
		f.mu.Lock()
		f.exit(id, 137)
		f.mu.Unlock()
	}
	return nil
}

func (f *fakeCRI) UpdateContainerResources(_ context.Context, id string, r *cri.ContainerResources) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.called(fmt.Sprintf("UpdateContainerResources %d", r.Linux.CpuShares))
}

func (f *fakeCRI) RemoveContainer(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.containers, id)
	return f.called("RemoveContainer")
}

func (f *fakeCRI) ExecSync(_ context.Context, id string, cmd []string, _ time.Duration) ([]byte, []byte, error) {
	f.mu.Lock()
	do := f.execs
	_ = f.called("ExecSync " + strings.Join(cmd, " "))
	f.mu.Unlock()
	if do == nil {
		return nil, nil, nil
	}
	out, err := do(id, cmd)
	return []byte(out), nil, err
}

func (f *fakeCRI) Exec(context.Context, *cri.ExecRequest) (*cri.ExecResponse, error) {
	return &cri.ExecResponse{Url: "/exec/1"}, nil
}

func (f *fakeCRI) PortForward(context.Context, *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
	return &cri.PortForwardResponse{Url: "/portforward/1"}, nil
}

// fakeImages is the image side of the same.
type fakeImages struct {
	criapi.ImageManagerService
	*fakeCRI
}

func (f fakeImages) Close(context.Context) error { return nil }

func (f fakeImages) ImageStatus(_ context.Context, i *cri.ImageSpec, _ bool) (*cri.ImageStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, img := range f.images {
		if name == i.Image || img.Id == i.Image {
			return &cri.ImageStatusResponse{Image: img}, nil
		}
	}
	return &cri.ImageStatusResponse{}, nil
}

func (f fakeImages) ListImages(context.Context, *cri.ImageFilter) ([]*cri.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*cri.Image
	for _, i := range f.images {
		out = append(out, i)
	}
	return out, nil
}

func (f fakeImages) PullImage(ctx context.Context, i *cri.ImageSpec, _ *cri.AuthConfig, _ *cri.PodSandboxConfig) (string, error) {
	sleep(ctx, f.slowPull)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.called("PullImage " + i.Image); err != nil {
		return "", err
	}
	img := &cri.Image{Id: "sha256:" + i.Image, RepoTags: []string{i.Image}, Size: 10}
	f.images[i.Image] = img
	return img.Id, nil
}
