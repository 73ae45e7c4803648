package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"proa/client"
	"proa/kubelet/lifecycle"
	"proa/kubelet/spec"
)

// Waits between tries of a step that failed: from, to.
const (
	retryFirst  = 500 * time.Millisecond
	retryLimit  = 2*time.Minute + 2*time.Second
	pullFirst   = 10 * time.Second
	pullLimit   = 5 * time.Minute
	minimumStop = 2 * time.Second // for SIGTERM, when preStop has used the grace period up
)

// act starts one action. It marks the step as under way, so that the next
// decision does not ask for it again.
func (w *worker) act(ctx context.Context, a lifecycle.Action) {
	pod := w.st.Pod
	switch a.Do {
	case lifecycle.MountVolumes:
		w.do(&w.st.Volumes, func() error { return w.mount(pod) })
	case lifecycle.RunSandbox:
		w.do(&w.st.Sandbox, func() error { return w.runSandbox(pod, a.Attempt) })
	case lifecycle.PullImage:
		w.pull(pod, a)
	case lifecycle.StartContainer:
		w.startContainer(pod, a)
	case lifecycle.KillContainer:
		w.kill(ctx, pod, a)
	case lifecycle.ResizeContainer:
		w.resize(pod, a)
	case lifecycle.Drain:
		w.do(&w.st.Drain, func() error { w.drain(ctx, pod, a.Deadline); return nil })
	case lifecycle.StopSandbox:
		w.do(&w.st.SandboxStop, func() error { return w.k.cfg.Runtime.StopPodSandbox(ctx, a.ID) })
	case lifecycle.RemoveContainer, lifecycle.RemoveSandbox:
		w.remove(ctx, pod, a)
	case lifecycle.Cleanup:
		w.do(&w.st.Cleanup, func() error { return w.cleanup(pod) })
	case lifecycle.DeletePod:
		w.do(&w.st.Delete, func() error { return w.deletePod(ctx, pod) })
	case lifecycle.RemoveAll:
		w.do(&w.st.Remove, func() error { return w.removeAll(ctx, pod) })
	}
}

// do runs an effect beside the worker and posts what came of it.
func (w *worker) do(step *lifecycle.Step, effect func() error) {
	step.Busy = true
	w.k.effects.Go(func() {
		err := effect()
		w.post(func(w *worker) { w.outcome(step, err); w.look() })
	})
}

func (w *worker) outcome(step *lifecycle.Step, err error) {
	if err == nil {
		*step = lifecycle.Step{Done: step != &w.st.Sandbox && step != &w.st.SandboxStop}
		return // sandboxes show in the observation whether they are there
	}
	if !errors.Is(err, context.Canceled) {
		w.k.log.Debug("a step failed and will be tried again", "pod", w.name(), "err", err)
	}
	*step = step.Fail(time.Now(), retryFirst, retryLimit, "", err.Error())
}

// mount brings the volumes up the first time.
func (w *worker) mount(pod *corev1.Pod) error {
	renew, err := w.setup(w.live, pod)
	if err != nil {
		if w.live.Err() == nil {
			w.mountFailed(pod, err)
		}
		return err
	}
	w.post(func(w *worker) { w.renew = renew })
	return nil
}

func (w *worker) setup(ctx context.Context, pod *corev1.Pod) (time.Time, error) {
	if len(pod.Spec.Volumes) == 0 {
		return time.Time{}, nil
	}
	w.k.refs.wait(ctx, pod)
	if err := w.volumeImages(pod); err != nil {
		return time.Time{}, err
	}
	w.files.Lock()
	defer w.files.Unlock()
	if err := ctx.Err(); err != nil {
		return time.Time{}, err
	}
	return w.k.volumes.Setup(ctx, pod)
}

func (w *worker) mountFailed(pod *corev1.Pod, err error) {
	list := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		list = joined.Unwrap()
	}
	for _, e := range list {
		w.k.events.Event(pod, corev1.EventTypeWarning, "FailedMount", e.Error())
	}
}

// runSandbox makes the pod's cgroup, log directory and sandbox, and the hosts file
// that needs its address.
func (w *worker) runSandbox(pod *corev1.Pod, attempt uint32) error {
	err := w.makeSandbox(pod, attempt)
	if err != nil && w.live.Err() == nil {
		w.k.events.Event(pod, corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+plain(err))
	}
	return err
}

func (w *worker) makeSandbox(pod *corev1.Pod, attempt uint32) error {
	k := w.k
	if attempt > 0 {
		k.events.Event(pod, corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	for _, old := range w.seen.Load().sandboxes {
		if err := k.cfg.Runtime.StopPodSandbox(w.live, old.Id); err != nil && !missing(err) {
			return err
		}
	}
	config, err := k.sandboxConfig(pod, attempt)
	if err != nil {
		return err
	}
	if err := k.shareCPU(); err != nil {
		return fmt.Errorf("the cgroup of the pod's class could not be set: %w", err)
	}
	if err := k.cgroups.Set(config.Linux.CgroupParent, config.Linux.Resources, 0); err != nil {
		return fmt.Errorf("the pod's cgroup could not be made: %w", err)
	}
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		return err
	}
	handler := ""
	if pod.Spec.RuntimeClassName != nil {
		if handler, err = k.runtimeHandler(w.live, *pod.Spec.RuntimeClassName); err != nil {
			return err
		}
	}
	id, err := k.cfg.Runtime.RunPodSandbox(w.live, config, handler)
	if err != nil {
		return err
	}
	st, err := k.cfg.Runtime.PodSandboxStatus(w.live, id, false)
	if err != nil {
		return err
	}
	return w.writeHosts(pod, lifecycle.SandboxIPs(st.Status))
}

func (w *worker) hostsFile() string { return filepath.Join(w.k.volumes.Dir(w.uid), "etc-hosts") }

func (w *worker) writeHosts(pod *corev1.Pod, ips []string) error {
	var machine []byte
	if pod.Spec.HostNetwork {
		machine, _ = os.ReadFile("/etc/hosts")
	}
	w.files.Lock()
	defer w.files.Unlock()
	if err := os.MkdirAll(w.k.volumes.Dir(w.uid), 0o750); err != nil {
		return err
	}
	return os.WriteFile(w.hostsFile(), []byte(spec.Hosts(pod, ips, w.k.node, string(machine))), 0o644)
}

// cleanup gives back what the node held for a pod whose processes have ended.
func (w *worker) cleanup(pod *corev1.Pod) error {
	w.files.Lock()
	defer w.files.Unlock()
	if err := w.k.volumes.Teardown(pod.UID); err != nil {
		return err
	}
	return w.k.cgroups.Remove(spec.CgroupParent(pod, w.k.node))
}

// deletePod confirms a deletion: nothing of the pod runs any more. A pod of the
// same name that is another one is left alone.
func (w *worker) deletePod(ctx context.Context, pod *corev1.Pod) error {
	now := int64(0)
	uid := pod.UID
	err := w.k.cfg.Client.Delete(ctx, client.Row[corev1.Pod](), client.KeyOf(pod),
		metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		w.post(func(w *worker) { w.st.Gone = true })
		return nil
	}
	return err
}

// removeAll takes the pod's record out of the runtime, and its logs off the disk.
func (w *worker) removeAll(ctx context.Context, pod *corev1.Pod) error {
	for _, sb := range w.seen.Load().sandboxes {
		if err := w.k.cfg.Runtime.StopPodSandbox(ctx, sb.Id); err != nil && !missing(err) {
			return err
		}
		if err := w.k.cfg.Runtime.RemovePodSandbox(ctx, sb.Id); err != nil && !missing(err) {
			return err
		}
	}
	if pod.Name == "" {
		return nil
	}
	return os.RemoveAll(spec.LogDirectory(pod, w.k.node))
}

// remove takes one old instance with its log, or an empty sandbox, away.
func (w *worker) remove(ctx context.Context, pod *corev1.Pod, a lifecycle.Action) {
	var old *cri.ContainerStatus
	for _, c := range w.st.Containers {
		if c.Id == a.ID {
			old = c
		}
	}
	w.killing(a.ID, time.Time{}, func() error {
		if a.Do == lifecycle.RemoveSandbox {
			if err := w.k.cfg.Runtime.StopPodSandbox(ctx, a.ID); err != nil && !missing(err) {
				return err
			}
			return w.k.cfg.Runtime.RemovePodSandbox(ctx, a.ID)
		}
		if err := w.k.cfg.Runtime.RemoveContainer(ctx, a.ID); err != nil && !missing(err) {
			return err
		}
		if old.GetState() == cri.ContainerState_CONTAINER_EXITED {
			w.k.logs.remove(logPath(w.k.node, pod, old))
		}
		return nil
	})
}

// killing runs an effect that State.Kills shows as under way.
func (w *worker) killing(id string, deadline time.Time, effect func() error) {
	k := w.st.Kills[id]
	k.Busy, k.Deadline = true, deadline
	w.st.Kills[id] = k
	w.k.effects.Go(func() {
		err := effect()
		w.post(func(w *worker) {
			k := w.st.Kills[id]
			if !k.Deadline.Equal(deadline) {
				return // a later stop with less grace has taken over
			}
			delete(w.kills, id)
			if err == nil || missing(err) {
				delete(w.st.Kills, id)
			} else {
				k.Step = k.Step.Fail(time.Now(), retryFirst, retryLimit, "", err.Error())
				w.st.Kills[id] = k
			}
			w.look()
		})
	})
}

// missing tells that the runtime does not know a sandbox or container (any more).
func missing(err error) bool { return err != nil && status.Code(unwrapped(err)) == codes.NotFound }

func unwrapped(err error) error {
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.(error)
	}
	return err
}
