// Package autoscaler sizes workloads by what is measured of them: the
// HorizontalPodAutoscaler of autoscaling/v2, by the algorithm that Kubernetes
// documents.
//
// A decision is pure: the autoscaler, its target's scale, the pods, the readings
// and what was recommended before go in; a status, perhaps a new size, and a
// memory come out. Run reads the metrics that decisions need, each autoscaler's
// every 15 seconds, and does nothing where there are none.
package autoscaler

import (
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"proa/reconcile"
)

// Target is the scale of what an autoscaler sizes.
type Target struct {
	Spec, Status int32
	Selector     string
	Err          error // why there is none
}

// Input is all that a decision sees.
type Input struct {
	HPA      *autoscalingv2.HorizontalPodAutoscaler
	Target   Target
	Pods     []*corev1.Pod // that the target's selector matches
	Readings []Reading     // one of each metric
	Memory   Memory
	Now      time.Time

	tolerances tolerances
}

// Output is what a decision wants.
type Output struct {
	Status autoscalingv2.HorizontalPodAutoscalerStatus
	// Rescale is the size to write, if it is to change, and Why.
	Rescale *int32
	Why     string
	Events  []reconcile.Event
	Memory  Memory
}

// decision is an Output in the making.
type decision struct {
	*Input
	out Output
}

// Decide is one autoscaler's decision.
func Decide(in Input) Output {
	in.tolerances = tolerancesOf(in.HPA.Spec.Behavior)
	d := &decision{Input: &in, out: Output{Status: *in.HPA.Status.DeepCopy(), Memory: in.Memory}}
	d.out.Status.ObservedGeneration = &in.HPA.Generation
	if in.Target.Err != nil {
		d.warn("FailedGetScale", in.Target.Err.Error())
		d.set(autoscalingv2.AbleToScale, false, "FailedGetScale", "the HPA controller was unable to get the target's current scale: "+in.Target.Err.Error())
		return d.out
	}
	d.set(autoscalingv2.AbleToScale, true, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	d.out.Status.CurrentReplicas = in.Target.Status
	current, least := in.Target.Spec, leastOf(in.HPA)
	switch {
	case current == 0 && !(least == 0 && d.zeroed()):
		d.out.Status.DesiredReplicas = 0
		d.set(autoscalingv2.ScalingActive, false, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
		return d.out
	case current > in.HPA.Spec.MaxReplicas:
		d.rescale(in.HPA.Spec.MaxReplicas, "Current number of replicas above Spec.MaxReplicas")
	case current < least:
		d.rescale(least, "Current number of replicas below Spec.MinReplicas")
	default:
		d.measure(least)
	}
	return d.out
}

func leastOf(h *autoscalingv2.HorizontalPodAutoscaler) int32 {
	if h.Spec.MinReplicas == nil {
		return 1
	}
	return *h.Spec.MinReplicas
}

// zeroed tells a target that has no pods because this autoscaler said so, from
// one that somebody switched off.
func (d *decision) zeroed() bool {
	for _, c := range d.HPA.Status.Conditions {
		if c.Type == autoscalingv2.ScaledToZero {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// measure goes by the metric that asks for the most. One that could not be read
// may have asked for more, so then nothing shrinks.
func (d *decision) measure(least int32) {
	if _, err := labels.Parse(d.Target.Selector); d.Target.Selector == "" || err != nil {
		d.warn("SelectorRequired", "selector is required")
		d.set(autoscalingv2.ScalingActive, false, "InvalidSelector", "the HPA target's scale is missing a selector")
		return
	}
	want, name, ok := d.proposals()
	if !ok {
		return
	}
	current := d.Target.Spec
	d.out.Memory = d.Memory.recommended(d.Now, want)
	n, reason, message := d.Memory.stabilize(d.Now, current, want, d.HPA.Spec.Behavior)
	d.set(autoscalingv2.AbleToScale, true, reason, message)
	final, reason, message := d.Memory.limit(d.Now, current, n, least, d.HPA.Spec.MaxReplicas, d.HPA.Spec.Behavior)
	d.set(autoscalingv2.ScalingLimited, final != n, reason, message)
	why := "All metrics below target"
	if final > current {
		why = name + " above target"
	}
	d.rescale(final, why)
}

func (d *decision) proposals() (want int32, name string, ok bool) {
	var failed error
	var reason string
	var statuses []autoscalingv2.MetricStatus
	for i := range d.HPA.Spec.Metrics {
		p, why, err := d.propose(&d.HPA.Spec.Metrics[i], d.Readings[i])
		if err != nil {
			d.warn(why, err.Error())
			if failed == nil {
				failed, reason = err, why
			}
			continue
		}
		statuses = append(statuses, p.status)
		if !ok || p.replicas > want {
			want, name, ok = p.replicas, p.name, true
		}
	}
	d.out.Status.CurrentMetrics = statuses
	if failed != nil && (!ok || want < d.Target.Spec) {
		d.set(autoscalingv2.ScalingActive, false, reason, "the HPA was unable to compute the replica count: "+failed.Error())
		d.warn("FailedComputeMetricsReplicas", fmt.Sprintf("invalid metrics (%d invalid out of %d), first error is: %v",
			len(d.HPA.Spec.Metrics)-len(statuses), len(d.HPA.Spec.Metrics), failed))
		return 0, "", false
	}
	d.set(autoscalingv2.ScalingActive, true, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from "+name)
	return want, name, ok
}

func (d *decision) rescale(to int32, why string) {
	d.out.Status.DesiredReplicas = to
	if to == d.Target.Spec {
		return
	}
	at := metav1.NewTime(d.Now)
	d.out.Rescale, d.out.Why, d.out.Status.LastScaleTime = &to, why, &at
	d.out.Memory = d.out.Memory.scaled(d.Now, d.Target.Spec, to)
	if leastOf(d.HPA) == 0 {
		if to == 0 {
			d.set(autoscalingv2.ScaledToZero, true, "ScaledToZero", "the HPA controller scaled the workload to zero")
		} else {
			d.set(autoscalingv2.ScaledToZero, false, "NotScaledToZero", "the HPA controller did not scale the workload to zero")
		}
	}
}

// rescaled says in an output how its write of the new size went.
func (o *Output) rescaled(h *autoscalingv2.HorizontalPodAutoscaler, now time.Time, err error) {
	d := &decision{Input: &Input{HPA: h, Now: now}, out: *o}
	if err != nil {
		d.warn("FailedRescale", fmt.Sprintf("New size: %d; reason: %s; error: %v", *o.Rescale, o.Why, err))
		d.set(autoscalingv2.AbleToScale, false, "FailedUpdateScale", "the HPA controller was unable to update the target scale: "+err.Error())
		d.out.Status.LastScaleTime, d.out.Status.DesiredReplicas = h.Status.LastScaleTime, h.Status.DesiredReplicas
	} else {
		d.set(autoscalingv2.AbleToScale, true, "SucceededRescale", fmt.Sprintf("the HPA controller was able to update the target scale to %d", *o.Rescale))
		d.out.Events = append(d.out.Events, reconcile.Normal(h, "SuccessfulRescale", fmt.Sprintf("New size: %d; reason: %s", *o.Rescale, o.Why)))
	}
	*o = d.out
}

func (d *decision) warn(reason, message string) {
	d.out.Events = append(d.out.Events, reconcile.Warning(d.HPA, reason, message))
}

// set writes a condition, with the time of its last change of state.
func (d *decision) set(t autoscalingv2.HorizontalPodAutoscalerConditionType, value bool, reason, message string) {
	status := corev1.ConditionFalse
	if value {
		status = corev1.ConditionTrue
	}
	next := autoscalingv2.HorizontalPodAutoscalerCondition{Type: t, Status: status, LastTransitionTime: metav1.NewTime(d.Now), Reason: reason, Message: message}
	for i := range d.out.Status.Conditions {
		if c := &d.out.Status.Conditions[i]; c.Type == t {
			if c.Status == status {
				next.LastTransitionTime = c.LastTransitionTime
			}
			*c = next
			return
		}
	}
	d.out.Status.Conditions = append(d.out.Status.Conditions, next)
}
