package job

import (
	"context"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/client"
	"proa/controllers/garbage"
	"proa/controllers/simulation"
)

// Each index waits after its own failures only, and an index's limit does not count
// what a rule ignores.
func TestIndexesFailByThemselves(t *testing.T) {
	one := int32(1)
	ignore := func(j *batchv1.Job) {
		j.Spec.BackoffLimitPerIndex = &one
		j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionIgnore,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}}}}
	}
	starts := map[int][]time.Time{}
	prepare := func(c *simulation.Cluster) {
		c.Fate = func(p *corev1.Pod) (corev1.PodPhase, time.Duration) {
			if indexOf(p) == 0 {
				return corev1.PodFailed, time.Second
			}
			return "", 0
		}
		c.Fault = func(verb string, obj client.Object, _ string) error {
			if p, ok := obj.(*corev1.Pod); ok && verb == "create" {
				starts[indexOf(p)] = append(starts[indexOf(p)], time.Now())
			}
			return nil
		}
	}
	simulation.Run(t, prepare, func(ctx context.Context, c *simulation.Cluster) {
		create(t, c, newJob(sized(2, 2), indexed, ignore))
		time.Sleep(1500 * time.Millisecond) // both run; that of index 1 is disrupted
		for p := range client.List[corev1.Pod](c.View(), "ns") {
			if indexOf(p) == 1 {
				next := p.DeepCopy()
				next.Status.Phase = corev1.PodFailed
				simulation.SetCondition(next, corev1.DisruptionTarget, true)
				if _, err := c.Update(ctx, next, "status"); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(time.Hour)
		want(t, "the end", outcome(get(c)), "active=1 succeeded=0 failed=2 lost=0")
		var notes []string
		for p := range client.List[corev1.Pod](c.View(), "ns") {
			if indexOf(p) == 1 && p.Status.Phase == corev1.PodRunning {
				notes = append(notes, p.Annotations[batchv1.JobIndexFailureCountAnnotation], p.Annotations[ignoredFailures])
			}
		}
		want(t, "failures and ignored ones of index 1", strings.Join(notes, " "), "0 1")
		if a, b := starts[0], starts[1]; len(a) != 2 || len(b) != 2 || a[1].Sub(a[0]).Round(time.Second) != 12*time.Second || b[1].Sub(b[0]).Round(time.Second) > 12*time.Second {
			t.Errorf("starts %v", starts)
		}
	}, Controller())
}

// However a Job goes, none of its pods is held by a finalizer that nobody takes off.
func TestNoPodIsHeldByAJobThatIsGone(t *testing.T) {
	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
		simulation.Run(t, always(""), func(ctx context.Context, c *simulation.Cluster) {
			create(t, c, newJob(sized(3, 3)))
			time.Sleep(10 * time.Second)
			err := c.Delete(ctx, client.Row[batchv1.Job](), client.Key{Namespace: "ns", Name: "j"}, metav1.DeleteOptions{PropagationPolicy: &policy})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			left := 0
			for p := range client.List[corev1.Pod](c.View(), "ns") {
				left++
				if len(p.Finalizers) > 0 {
					t.Errorf("%s: pod %s is held by %v", policy, p.Name, p.Finalizers)
				}
			}
			if want := map[bool]int{true: 3}[policy == metav1.DeletePropagationOrphan]; left != want {
				t.Errorf("%s: %d pods are left, want %d", policy, left, want)
			}
		}, Controller(), Orphans(), garbage.Controller(api.Builtin()))
	}
}

// A Job that is given up is ended although an index of it waits to be tried again.
func TestAJobThatIsGivenUpKeepsNoPodForItsIndex(t *testing.T) {
	deadline, many := int64(15), int32(5)
	simulation.Run(t, failing(0, 1, 2), func(_ context.Context, c *simulation.Cluster) {
		create(t, c, newJob(sized(3, 3), indexed, func(j *batchv1.Job) {
			j.Spec.ActiveDeadlineSeconds, j.Spec.BackoffLimitPerIndex = &deadline, &many
		}))
		time.Sleep(time.Hour)
		if f := final(get(c)); f == nil || f.Reason != batchv1.JobReasonDeadlineExceeded {
			t.Errorf("the end is %+v", get(c).Status)
		}
	}, Controller())
}
