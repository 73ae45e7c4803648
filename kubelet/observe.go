package kubelet

import (
	"context"
	"io"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/kubelet/lifecycle"
	"proa/kubelet/logs"
	"proa/kubelet/spec"
)

// observation is what the runtime says of one pod.
type observation struct {
	sandboxes  []*cri.PodSandboxStatus
	containers []*cri.ContainerStatus
}

// observe asks the runtime about one pod. Instances in old that have ended are
// taken over: they do not change any more.
func (k *Kubelet) observe(ctx context.Context, uid types.UID, old *observation) (*observation, error) {
	label := map[string]string{spec.LabelPodUID: string(uid)}
	sandboxes, err := k.cfg.Runtime.ListPodSandbox(ctx, &cri.PodSandboxFilter{LabelSelector: label})
	if err != nil {
		return nil, err
	}
	containers, err := k.cfg.Runtime.ListContainers(ctx, &cri.ContainerFilter{LabelSelector: label})
	if err != nil {
		return nil, err
	}
	return k.detail(ctx, sandboxes, containers, old)
}

func (k *Kubelet) detail(ctx context.Context, sandboxes []*cri.PodSandbox, containers []*cri.Container, old *observation) (*observation, error) {
	o := &observation{}
	for _, s := range sandboxes {
		r, err := k.cfg.Runtime.PodSandboxStatus(ctx, s.Id, false)
		if missing(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		o.sandboxes = append(o.sandboxes, r.Status)
	}
	for _, c := range containers {
		if done := old.ended(c.Id); done != nil {
			o.containers = append(o.containers, done)
			continue
		}
		r, err := k.cfg.Runtime.ContainerStatus(ctx, c.Id, false)
		if missing(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		if r.Status.Labels[lifecycle.LabelSandbox] == "" {
			continue // not made by a kubelet like this one
		}
		o.containers = append(o.containers, r.Status)
	}
	return o, nil
}

func (o *observation) ended(id string) *cri.ContainerStatus {
	if o == nil {
		return nil
	}
	for _, c := range o.containers {
		if c.Id == id && c.State == cri.ContainerState_CONTAINER_EXITED {
			return c
		}
	}
	return nil
}

// observeAll is what the runtime knows of every pod.
func (k *Kubelet) observeAll(ctx context.Context) (map[types.UID]*observation, error) {
	sandboxes, err := k.cfg.Runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return nil, err
	}
	containers, err := k.cfg.Runtime.ListContainers(ctx, nil)
	if err != nil {
		return nil, err
	}
	byPod := map[types.UID][]*cri.Container{}
	for _, c := range containers {
		uid := types.UID(c.Labels[spec.LabelPodUID])
		byPod[uid] = append(byPod[uid], c)
	}
	sandboxesOf := map[types.UID][]*cri.PodSandbox{}
	for _, s := range sandboxes {
		uid := types.UID(s.GetMetadata().GetUid())
		sandboxesOf[uid] = append(sandboxesOf[uid], s)
	}
	out := map[types.UID]*observation{}
	for uid, list := range sandboxesOf {
		if out[uid], err = k.detail(ctx, list, byPod[uid], nil); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// The lengths that the API promises for termination messages.
const (
	maxMessage     = 4096
	maxMessages    = 12 << 10 // of a pod
	logMessage     = 2048
	logMessageRows = 80
)

// lastWords is the termination message of an instance that has ended.
func (k *Kubelet) lastWords(pod *corev1.Pod, c *cri.ContainerStatus, containers int) string {
	limit := int64(min(maxMessage, maxMessages/max(containers, 1)))
	if path := c.Annotations[spec.AnnotationMessage]; path != "" {
		if text := readSome(path, limit); text != "" {
			return text
		}
	}
	if c.ExitCode != 0 && c.Annotations[spec.AnnotationPolicy] == string(corev1.TerminationMessageFallbackToLogsOnError) {
		return logs.Tail(logPath(k.node, pod, c), logMessageRows, min(limit, logMessage))
	}
	return ""
}

func logPath(n *spec.Node, pod *corev1.Pod, c *cri.ContainerStatus) string {
	return filepath.Join(spec.LogDirectory(pod, n), spec.LogPath(c.GetMetadata().GetName(), c.GetMetadata().GetAttempt()))
}

func readSome(path string, limit int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	data, _ := io.ReadAll(io.LimitReader(f, limit))
	return string(data)
}
