package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/client/events"
	"proa/kubelet/lifecycle"
	"proa/kubelet/probe"
	"proa/kubelet/spec"
)

// startError is a failed start with the reason that the container then waits for.
type startError struct {
	reason string
	err    error
}

func (e *startError) Error() string { return plain(e.err) }

// plain is an error's text as people should read it: without gRPC's envelope.
func plain(err error) string {
	if s, ok := status.FromError(err); ok && err != nil {
		return s.Message()
	}
	return err.Error()
}

// startContainer makes and starts one instance and runs its postStart hook.
func (w *worker) startContainer(pod *corev1.Pod, a lifecycle.Action) {
	name := a.Container.Name
	step := w.st.Starts[name]
	step.Busy = true
	w.st.Starts[name] = step
	ref := w.st.Images[name].Ref
	ips := w.podIPs()
	w.k.effects.Go(func() {
		err := w.launch(pod, a, ref, ips)
		w.post(func(w *worker) { w.started(name, pod, a, err); w.look() })
	})
}

func (w *worker) podIPs() []string {
	if w.st.Pod.Spec.HostNetwork {
		return w.k.node.HostIPs
	}
	return lifecycle.SandboxIPs(lifecycle.NewestSandbox(w.st.Sandboxes))
}

func (w *worker) started(name string, pod *corev1.Pod, a lifecycle.Action, err error) {
	step := w.st.Starts[name]
	step.Busy = false
	switch {
	case err == nil:
		delete(w.st.Starts, name)
		return
	case w.live.Err() != nil:
	default:
		w.k.container(pod, a.Container, corev1.EventTypeWarning, "Failed", "Error: "+plain(err))
		reason := "CreateContainerError"
		var s *startError
		if errors.As(err, &s) {
			reason = s.reason
		}
		step = step.Fail(time.Now(), pullFirst, pullLimit, reason, plain(err))
		if reason == "RunContainerError" || reason == "PostStartHookError" {
			step.Retry = time.Time{} // the instance's own record has the back-off
		}
	}
	w.st.Starts[name] = step
}

func (w *worker) launch(pod *corev1.Pod, a lifecycle.Action, ref string, ips []string) error {
	config, err := w.config(pod, a, ref, ips)
	if err != nil {
		return &startError{"CreateContainerConfigError", err}
	}
	sandbox, err := w.k.sandboxConfig(pod, 0)
	if err != nil {
		return &startError{"CreateContainerConfigError", err}
	}
	if err := os.MkdirAll(filepath.Join(sandbox.LogDirectory, a.Container.Name), 0o755); err != nil {
		return err
	}
	id, err := w.k.cfg.Runtime.CreateContainer(w.live, a.Sandbox, config, sandbox)
	if err != nil {
		return &startError{"CreateContainerError", err}
	}
	w.k.container(pod, a.Container, corev1.EventTypeNormal, "Created", "Container created")
	if err := w.k.cfg.Runtime.StartContainer(w.live, id); err != nil {
		return &startError{"RunContainerError", err}
	}
	w.k.container(pod, a.Container, corev1.EventTypeNormal, "Started", "Container started")
	return w.postStart(pod, a.Container, id, ips)
}

func (w *worker) config(pod *corev1.Pod, a lifecycle.Action, ref string, ips []string) (*cri.ContainerConfig, error) {
	w.k.refs.wait(w.live, pod)
	s := spec.Start{Sandbox: a.Sandbox, Attempt: a.Attempt, Backoff: a.Backoff, PodIPs: ips}
	got, err := w.k.cfg.Images.ImageStatus(w.live, &cri.ImageSpec{Image: ref, UserSpecifiedImage: a.Container.Image}, false)
	if err != nil || got.GetImage() == nil {
		return nil, fmt.Errorf("image %q is not on the node any more: %v", a.Container.Image, err)
	}
	s.Image = got.Image
	if s.Target, err = w.target(pod, a.Container.Name); err != nil {
		return nil, err
	}
	if s.Env, s.Vars, err = spec.Env(pod, a.Container, ips, w.k.node, sources{w.k.cfg.Client}); err != nil {
		return nil, err
	}
	w.files.Lock()
	defer w.files.Unlock()
	if s.Mounts, err = w.k.volumes.Mounts(w.live, pod, a.Container, s.Vars); err != nil {
		return nil, err
	}
	if err := w.ownMounts(a, &s); err != nil {
		return nil, err
	}
	return spec.Container(pod, a.Container, s, w.k.node)
}

// target is the ID of the container that an ephemeral one names as its target.
func (w *worker) target(pod *corev1.Pod, name string) (string, error) {
	for i := range pod.Spec.EphemeralContainers {
		c := &pod.Spec.EphemeralContainers[i]
		if c.Name != name || c.TargetContainerName == "" {
			continue
		}
		seen := w.seen.Load()
		if st := seen.status(c.TargetContainerName); st != nil && st.State.Running != nil {
			if inst := seen.instance(st.ContainerID); inst != nil {
				return inst.Id, nil
			}
		}
		return "", fmt.Errorf("unable to find target container %q", c.TargetContainerName)
	}
	return "", nil
}

// ownMounts adds the hosts file, unless the pod mounts one, and the file that a
// termination message is read from.
func (w *worker) ownMounts(a lifecycle.Action, s *spec.Start) error {
	hosts := true
	for _, m := range s.Mounts {
		hosts = hosts && m.ContainerPath != "/etc/hosts"
	}
	if _, err := os.Stat(w.hostsFile()); err == nil && hosts {
		s.Mounts = append(s.Mounts, &cri.Mount{ContainerPath: "/etc/hosts", HostPath: w.hostsFile()})
	}
	if a.Container.TerminationMessagePath == "" {
		return nil
	}
	dir := filepath.Join(w.k.volumes.Dir(w.uid), "containers", a.Container.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	s.MessageFile = filepath.Join(dir, strconv.Itoa(int(a.Attempt)))
	if err := os.WriteFile(s.MessageFile, nil, 0o666); err != nil {
		return err
	}
	s.Mounts = append(s.Mounts, &cri.Mount{ContainerPath: a.Container.TerminationMessagePath, HostPath: s.MessageFile})
	return os.Chmod(s.MessageFile, 0o666) // whoever the container runs as may write it
}

// postStart runs the hook; an instance whose hook fails is killed.
func (w *worker) postStart(pod *corev1.Pod, c *corev1.Container, id string, ips []string) error {
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	err := w.hook(w.live, c.Lifecycle.PostStart, c, id, ips, 0)
	if err == nil {
		return nil
	}
	w.k.container(pod, c, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
	w.k.container(pod, c, corev1.EventTypeNormal, "Killing", "FailedPostStartHook")
	grace := int64(30)
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = *g
	}
	if stopErr := w.k.cfg.Runtime.StopContainer(w.live, id, grace); stopErr != nil {
		return &startError{"PostStartHookError", errors.Join(err, stopErr)}
	}
	return &startError{"PostStartHookError", fmt.Errorf("PostStartHook failed: %w", err)}
}

// hook runs a postStart or preStop handler. A limit of 0 is none.
func (w *worker) hook(ctx context.Context, h *corev1.LifecycleHandler, c *corev1.Container, id string, ips []string, limit time.Duration) error {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	switch {
	case h.Exec != nil:
		_, _, err := w.k.cfg.Runtime.ExecSync(ctx, id, h.Exec.Command, limit)
		return err
	case h.HTTPGet != nil:
		return probe.Get(ctx, h.HTTPGet, probe.Target{Container: c, PodIP: first(ips)})
	case h.Sleep != nil:
		sleep(ctx, time.Duration(h.Sleep.Seconds)*time.Second)
	}
	return nil
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// kill stops an instance within its grace period: preStop, the stop signal, then
// SIGKILL. A kill that comes later with less grace takes over from this one.
func (w *worker) kill(ctx context.Context, pod *corev1.Pod, a lifecycle.Action) {
	again := w.kills[a.ID] != nil
	if again {
		w.kills[a.ID]()
	} else {
		w.k.container(pod, a.Container, corev1.EventTypeNormal, "Killing", a.Message)
	}
	ctx, w.kills[a.ID] = context.WithCancel(ctx)
	ips := w.podIPs()
	if w.probes[a.ID] != nil {
		w.probes[a.ID].stopExcept(readiness)
	}
	w.killing(a.ID, a.Deadline, func() error {
		if !again {
			w.preStop(ctx, pod, a, ips)
		}
		left := max(time.Until(a.Deadline), minimumStop)
		if err := ctx.Err(); err != nil {
			return err
		}
		return w.k.cfg.Runtime.StopContainer(ctx, a.ID, int64((left+time.Second/2)/time.Second))
	})
}

func (w *worker) preStop(ctx context.Context, pod *corev1.Pod, a lifecycle.Action, ips []string) {
	c := a.Container
	if c == nil || c.Lifecycle == nil || c.Lifecycle.PreStop == nil {
		return
	}
	if err := w.hook(ctx, c.Lifecycle.PreStop, c, a.ID, ips, time.Until(a.Deadline)); err != nil && ctx.Err() == nil {
		w.k.container(pod, c, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
	}
}

// container records an event about one container of a pod.
func (k *Kubelet) container(pod *corev1.Pod, c *corev1.Container, eventtype, reason, message string) {
	ref := events.Reference(k.cfg.Client.Registry(), pod)
	if c != nil {
		ref.FieldPath = "spec." + section(pod, c) + "{" + c.Name + "}"
	}
	k.events.About(ref, eventtype, reason, message)
}

func section(pod *corev1.Pod, c *corev1.Container) string {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == c.Name {
			return "initContainers"
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == c.Name {
			return "ephemeralContainers"
		}
	}
	return "containers"
}
