package autoscaler

import (
	"fmt"
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"proa/controllers/pods"
)

// How long a pod's first use of CPU may be its start-up, and how soon after its
// start an unready pod has never been ready. Upstream's defaults.
const (
	cpuInitialization = 5 * time.Minute
	firstReadiness    = 30 * time.Second
)

// defaultTolerance is how far from its target a metric may be without a change.
const defaultTolerance = 0.1

// Sample is one pod's figure, in thousandths of the metric's unit, over Window
// before At.
type Sample struct {
	Milli  int64
	At     time.Time
	Window time.Duration
}

// Reading is what was measured for one metric of an autoscaler: of each pod, or
// one value for all (object and external metrics), in thousandths.
type Reading struct {
	Pods  map[string]Sample
	Value int64
	Err   error
}

// share is one pod's part in a metric: what it uses and what it should.
type share struct{ use, want, full float64 }

// tolerances are the spans below and above the target that change nothing.
type tolerances struct{ down, up float64 }

func tolerancesOf(b *autoscalingv2.HorizontalPodAutoscalerBehavior) tolerances {
	t := tolerances{defaultTolerance, defaultTolerance}
	if b != nil && b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
		t.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
	}
	if b != nil && b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
		t.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
	}
	return t
}

func (t tolerances) within(ratio float64) bool { return ratio >= 1-t.down && ratio <= 1+t.up }

// perPod recommends a size from each pod's share. Pods without a figure count as
// idle when more would be needed and as fully used when fewer, pods that are not
// ready as idle: so neither drives the size further than what is known.
func perPod(current int32, ready, missing, unready []share, t tolerances) (replicas int32, ratio float64) {
	ratio = ratioOf(ready)
	lazy := len(unready) > 0 && ratio > 1
	if !lazy && len(missing) == 0 {
		if t.within(ratio) {
			return current, ratio
		}
		return up(ratio * float64(len(ready))), ratio
	}
	all := append([]share(nil), ready...)
	for _, s := range missing {
		switch {
		case ratio < 1:
			s.use = s.full
		case ratio > 1:
			s.use = 0
		default:
			continue
		}
		all = append(all, s)
	}
	if lazy {
		for _, s := range unready {
			s.use = 0
			all = append(all, s)
		}
	}
	careful := ratioOf(all)
	replicas = up(careful * float64(len(all)))
	switch {
	case t.within(careful), ratio < 1 && careful > 1, ratio > 1 && careful < 1,
		careful < 1 && replicas > current, careful > 1 && replicas < current:
		return current, ratio
	}
	return replicas, ratio
}

func ratioOf(list []share) float64 {
	var use, want float64
	for _, s := range list {
		use, want = use+s.use, want+s.want
	}
	return use / want
}

func up(x float64) int32 {
	if x >= math.MaxInt32 {
		return math.MaxInt32
	}
	return int32(math.Ceil(x))
}

// sorted files pods by what is known of them.
type sorted struct{ ready, missing, unready []share }

// sortPods asks shareOf what each pod should use. Pods that end do not count.
func sortPods(list []*corev1.Pod, r Reading, cpu bool, now time.Time, shareOf func(p *corev1.Pod) (share, error)) (s sorted, err error) {
	for _, p := range list {
		if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed {
			continue
		}
		part, err := shareOf(p)
		if err != nil {
			return s, err
		}
		sample, known := r.Pods[p.Name]
		part.use = float64(sample.Milli)
		switch {
		case p.Status.Phase == corev1.PodPending:
			s.unready = append(s.unready, part)
		case !known:
			s.missing = append(s.missing, part)
		case cpu && starting(p, sample, now):
			s.unready = append(s.unready, part)
		default:
			s.ready = append(s.ready, part)
		}
	}
	if len(s.ready) == 0 {
		return s, fmt.Errorf("did not receive metrics for targeted pods (pods might be unready)")
	}
	return s, nil
}

// starting tells a pod whose use of CPU says nothing yet.
func starting(p *corev1.Pod, s Sample, now time.Time) bool {
	var cond *corev1.PodCondition
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.PodReady {
			cond = &p.Status.Conditions[i]
		}
	}
	if cond == nil || p.Status.StartTime == nil {
		return true
	}
	start := p.Status.StartTime.Time
	if start.Add(cpuInitialization).After(now) {
		return cond.Status == corev1.ConditionFalse || s.At.Before(cond.LastTransitionTime.Add(s.Window))
	}
	return cond.Status == corev1.ConditionFalse && start.Add(firstReadiness).After(cond.LastTransitionTime.Time)
}

// proposal is what one metric asks for.
type proposal struct {
	replicas int32
	status   autoscalingv2.MetricStatus
	name     string // of the metric, for messages
}

// proposeResource is for resources of whole pods, or of one container of each.
func (in *Input) proposeResource(name corev1.ResourceName, container string, target autoscalingv2.MetricTarget, r Reading) (int32, autoscalingv2.MetricValueStatus, error) {
	var value autoscalingv2.MetricValueStatus
	shareOf := func(p *corev1.Pod) (share, error) {
		if target.AverageValue != nil {
			want := float64(target.AverageValue.MilliValue())
			return share{want: want, full: want}, nil
		}
		request, err := requestOf(p, container, name)
		pct := float64(*target.AverageUtilization) / 100
		return share{want: request * pct, full: request * max(1, pct)}, err
	}
	s, err := sortPods(in.Pods, r, name == corev1.ResourceCPU, in.Now, shareOf)
	if err != nil {
		return 0, value, err
	}
	n, ratio := perPod(in.Target.Spec, s.ready, s.missing, s.unready, in.tolerances)
	if target.AverageUtilization != nil {
		pct := int32(ratio * float64(*target.AverageUtilization))
		value.AverageUtilization = &pct
	}
	format := resource.DecimalSI
	if name == corev1.ResourceMemory {
		format = resource.BinarySI
	}
	value.AverageValue = resource.NewMilliQuantity(averageUse(s.ready), format)
	return n, value, nil
}

func averageUse(list []share) int64 {
	var sum float64
	for _, s := range list {
		sum += s.use
	}
	return int64(sum / float64(len(list)))
}

// requestOf is what a pod's containers request, in thousandths.
func requestOf(p *corev1.Pod, container string, name corev1.ResourceName) (float64, error) {
	var sum int64
	found := container == ""
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		if container != "" && c.Name != container {
			continue
		}
		found = true
		q, ok := c.Resources.Requests[name]
		if !ok {
			return 0, fmt.Errorf("missing request for %s in container %s of Pod %s", name, c.Name, p.Name)
		}
		sum += q.MilliValue()
	}
	if !found {
		return 0, fmt.Errorf("container %s not present in metrics for pod %s/%s", container, p.Namespace, p.Name)
	}
	return float64(sum), nil
}

// proposeValue is for one figure of all pods together, held against a value
// that is to be kept or against an amount for each pod.
func (in *Input) proposeValue(target autoscalingv2.MetricTarget, r Reading) (int32, autoscalingv2.MetricValueStatus, error) {
	switch {
	case target.AverageValue != nil:
		want := float64(target.AverageValue.MilliValue())
		status := autoscalingv2.MetricValueStatus{AverageValue: resource.NewMilliQuantity(r.Value, resource.DecimalSI)}
		n := in.Target.Status
		if n > 0 {
			status.AverageValue = resource.NewMilliQuantity(int64(math.Ceil(float64(r.Value)/float64(n))), resource.DecimalSI)
		}
		if n == 0 || !in.tolerances.within(float64(r.Value)/(want*float64(n))) {
			n = up(float64(r.Value) / want)
		}
		return n, status, nil
	case target.Value != nil:
		status := autoscalingv2.MetricValueStatus{Value: resource.NewMilliQuantity(r.Value, resource.DecimalSI)}
		ratio := float64(r.Value) / float64(target.Value.MilliValue())
		switch current := in.Target.Spec; {
		case current == 0:
			return up(ratio), status, nil
		case in.tolerances.within(ratio):
			return current, status, nil
		}
		return up(ratio * float64(in.readyPods())), status, nil
	}
	return 0, autoscalingv2.MetricValueStatus{}, fmt.Errorf("neither a value target nor an average value target was set")
}

func (in *Input) readyPods() int {
	n := 0
	for _, p := range in.Pods {
		if p.Status.Phase == corev1.PodRunning && pods.Ready(p) {
			n++
		}
	}
	return n
}

// propose is one metric's proposal. The error's reason is upstream's.
func (in *Input) propose(m *autoscalingv2.MetricSpec, r Reading) (p proposal, reason string, err error) {
	p.status.Type = m.Type
	err = r.Err
	switch m.Type {
	case autoscalingv2.ResourceMetricSourceType:
		s := autoscalingv2.ResourceMetricStatus{Name: m.Resource.Name}
		if err == nil {
			p.replicas, s.Current, err = in.proposeResource(m.Resource.Name, "", m.Resource.Target, r)
		}
		p.status.Resource, p.name = &s, resourceWords(m.Resource.Name, "resource", m.Resource.Target)
		return p, "FailedGetResourceMetric", resourceError(err, m.Resource.Name, m.Resource.Target)
	case autoscalingv2.ContainerResourceMetricSourceType:
		s := autoscalingv2.ContainerResourceMetricStatus{Name: m.ContainerResource.Name, Container: m.ContainerResource.Container}
		if err == nil {
			p.replicas, s.Current, err = in.proposeResource(s.Name, s.Container, m.ContainerResource.Target, r)
		}
		p.status.ContainerResource, p.name = &s, resourceWords(s.Name, "container resource", m.ContainerResource.Target)
		return p, "FailedGetContainerResourceMetric", resourceError(err, s.Name, m.ContainerResource.Target)
	case autoscalingv2.PodsMetricSourceType:
		s := autoscalingv2.PodsMetricStatus{Metric: m.Pods.Metric}
		if err == nil {
			p.replicas, s.Current, err = in.proposeResource("", "", m.Pods.Target, r)
		}
		p.status.Pods, p.name = &s, "pods metric "+m.Pods.Metric.Name
		return p, "FailedGetPodsMetric", err
	case autoscalingv2.ObjectMetricSourceType:
		s := autoscalingv2.ObjectMetricStatus{Metric: m.Object.Metric, DescribedObject: m.Object.DescribedObject}
		if err == nil {
			p.replicas, s.Current, err = in.proposeValue(m.Object.Target, r)
		}
		p.status.Object, p.name = &s, fmt.Sprintf("%s metric %s", m.Object.DescribedObject.Kind, m.Object.Metric.Name)
		return p, "FailedGetObjectMetric", err
	case autoscalingv2.ExternalMetricSourceType:
		s := autoscalingv2.ExternalMetricStatus{Metric: m.External.Metric}
		if err == nil {
			p.replicas, s.Current, err = in.proposeValue(m.External.Target, r)
		}
		p.status.External, p.name = &s, fmt.Sprintf("external metric %s(%+v)", m.External.Metric.Name, m.External.Metric.Selector)
		return p, "FailedGetExternalMetric", err
	}
	return p, "InvalidMetricSourceType", fmt.Errorf("unknown metric source type %q", m.Type)
}

func resourceWords(name corev1.ResourceName, what string, t autoscalingv2.MetricTarget) string {
	if t.AverageUtilization != nil {
		return fmt.Sprintf("%s %s utilization (percentage of request)", name, what)
	}
	return fmt.Sprintf("%s %s", name, what)
}

func resourceError(err error, name corev1.ResourceName, t autoscalingv2.MetricTarget) error {
	switch {
	case err == nil:
		return nil
	case t.AverageUtilization != nil:
		return fmt.Errorf("failed to get %s utilization: %w", name, err)
	}
	return fmt.Errorf("failed to get %s usage: %w", name, err)
}
