package kubelet

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	helpers "k8s.io/component-helpers/resource"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"proa/kubelet/spec"
)

// shareCPU sets what the classes of pods get when the processors are busy: the
// burstable ones together what they requested, those of best effort next to
// nothing. Guaranteed pods stand beside the classes with shares of their own.
func (k *Kubelet) shareCPU() error {
	k.classes.Lock()
	defer k.classes.Unlock()
	milli := int64(0)
	for _, w := range k.all() {
		pod := w.seen.Load().pod
		if spec.QOS(pod) == corev1.PodQOSBurstable && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			requests := helpers.PodRequests(pod, helpers.PodResourcesOptions{})
			milli += requests.Cpu().MilliValue()
		}
	}
	if shares := spec.Shares(milli); shares != k.shares {
		for class, s := range map[string]int64{"burstable": shares, "besteffort": spec.Shares(0)} {
			if err := k.cgroups.Set(path.Join("/", k.cfg.CgroupRoot, class), &cri.LinuxContainerResources{CpuShares: s, CpuPeriod: spec.Period}, 0); err != nil {
				return err
			}
		}
		k.shares = shares
	}
	return nil
}
