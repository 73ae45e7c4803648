package runtime

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ListPodSandbox implements CRI: newest first.
func (r *Runtime) ListPodSandbox(_ context.Context, f *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	list := []*runtimeapi.PodSandbox{}
	for _, s := range r.sandboxes {
		rec := s.rec
		config := rec.Config.M
		if rec.Phase == phaseMaking || !strings.HasPrefix(rec.ID, f.GetId()) ||
			(f.GetState() != nil && f.State.State != rec.state()) || !matches(f.GetLabelSelector(), config.Labels) {
			continue
		}
		list = append(list, &runtimeapi.PodSandbox{Id: rec.ID, Metadata: config.Metadata, State: rec.state(), CreatedAt: rec.Created,
			Labels: config.Labels, Annotations: config.Annotations, RuntimeHandler: rec.Handler})
	}
	slices.SortFunc(list, func(a, b *runtimeapi.PodSandbox) int { return cmp.Compare(b.CreatedAt, a.CreatedAt) })
	return list, nil
}

// ListContainers implements CRI: newest first.
func (r *Runtime) ListContainers(_ context.Context, f *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	list := []*runtimeapi.Container{}
	for _, c := range r.containers {
		rec := c.rec
		config := rec.Config.M
		if rec.Phase == phaseMaking || !strings.HasPrefix(rec.ID, f.GetId()) || !strings.HasPrefix(rec.Sandbox, f.GetPodSandboxId()) ||
			(f.GetState() != nil && f.State.State != rec.state()) || !matches(f.GetLabelSelector(), config.Labels) {
			continue
		}
		list = append(list, &runtimeapi.Container{Id: rec.ID, PodSandboxId: rec.Sandbox, Metadata: config.Metadata, Image: config.Image,
			ImageRef: rec.ImageRef, ImageId: rec.ImageID, State: rec.state(), CreatedAt: rec.Created,
			Labels: config.Labels, Annotations: config.Annotations})
	}
	slices.SortFunc(list, func(a, b *runtimeapi.Container) int { return cmp.Compare(b.CreatedAt, a.CreatedAt) })
	return list, nil
}

func matches(selector, labels map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

func (rec sandboxRecord) state() runtimeapi.PodSandboxState {
	if rec.Phase == phaseRunning {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func (rec containerRecord) state() runtimeapi.ContainerState {
	switch rec.Phase {
	case phaseCreated:
		return runtimeapi.ContainerState_CONTAINER_CREATED
	case phaseRunning:
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	case phaseEnded:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	}
	return runtimeapi.ContainerState_CONTAINER_UNKNOWN
}

// PodSandboxStatus implements CRI, with the containers' statuses along.
func (r *Runtime) PodSandboxStatus(_ context.Context, id string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	s, err := r.findSandbox(id)
	if err != nil {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	resp := &runtimeapi.PodSandboxStatusResponse{Status: s.rec.status()}
	for _, c := range r.containers {
		if c.rec.Sandbox == s.id && c.rec.Phase != phaseMaking {
			resp.ContainersStatuses = append(resp.ContainersStatuses, c.rec.status())
		}
	}
	if verbose {
		resp.Info, err = info(map[string]any{"pid": s.rec.Shim, "pausePid": s.rec.Pause})
	}
	return resp, err
}

func (rec sandboxRecord) status() *runtimeapi.PodSandboxStatus {
	config := rec.Config.M
	st := &runtimeapi.PodSandboxStatus{Id: rec.ID, Metadata: config.Metadata, State: rec.state(), CreatedAt: rec.Created,
		Labels: config.Labels, Annotations: config.Annotations, RuntimeHandler: rec.Handler,
		Network: &runtimeapi.PodSandboxNetworkStatus{},
		Linux:   &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: options(config)}}}
	for i, ip := range rec.IPs {
		if i == 0 {
			st.Network.Ip = ip.String()
			continue
		}
		st.Network.AdditionalIps = append(st.Network.AdditionalIps, &runtimeapi.PodIP{Ip: ip.String()})
	}
	return st
}

// ContainerStatus implements CRI.
func (r *Runtime) ContainerStatus(_ context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := r.findContainer(id)
	if err != nil {
		return nil, err
	}
	rec := r.record(c)
	resp := &runtimeapi.ContainerStatusResponse{Status: rec.status()}
	if verbose {
		resp.Info, err = info(map[string]any{"sandboxID": rec.Sandbox, "pid": rec.PID, "cgroup": rec.Cgroup, "process": rec.Process})
	}
	return resp, err
}

func info(v any) (map[string]string, error) {
	text, err := json.Marshal(v)
	return map[string]string{"info": string(text)}, err
}

func (rec containerRecord) status() *runtimeapi.ContainerStatus {
	config := rec.Config.M
	st := &runtimeapi.ContainerStatus{Id: rec.ID, Metadata: config.Metadata, State: rec.state(), CreatedAt: rec.Created,
		StartedAt: rec.Started, FinishedAt: rec.Finished, ExitCode: rec.ExitCode, Reason: rec.Reason, Message: rec.Message,
		Image: config.Image, ImageRef: rec.ImageRef, ImageId: rec.ImageID, Labels: config.Labels, Annotations: config.Annotations,
		Mounts: config.Mounts, LogPath: rec.LogPath, StopSignal: signalEnum(stopSignal(rec)),
		Resources: &runtimeapi.ContainerResources{Linux: rec.Resources.M}}
	if u := rec.User; u != nil {
		lu := &runtimeapi.LinuxContainerUser{Uid: int64(u.UID), Gid: int64(u.GID)}
		for _, g := range u.AdditionalGids {
			lu.SupplementalGroups = append(lu.SupplementalGroups, int64(g))
		}
		st.User = &runtimeapi.ContainerUser{Linux: lu}
	}
	return st
}
