package job

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/client"
	"proa/controllers/garbage"
	"proa/controllers/pods"
	"proa/controllers/simulation"
)

func newJob(change ...func(j *batchv1.Job)) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "j"}, Spec: batchv1.JobSpec{
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}}
	for _, f := range change {
		f(j)
	}
	return j
}

func sized(completions, parallelism int32) func(j *batchv1.Job) {
	return func(j *batchv1.Job) { j.Spec.Completions, j.Spec.Parallelism = &completions, &parallelism }
}

func indexed(j *batchv1.Job) {
	m := batchv1.IndexedCompletion
	j.Spec.CompletionMode = &m
}

func limit(n int32) func(j *batchv1.Job) {
	return func(j *batchv1.Job) { j.Spec.BackoffLimit = &n }
}

func get(c *simulation.Cluster) *batchv1.Job { return client.Get[batchv1.Job](c.View(), "ns", "j") }

func create(t *testing.T, c *simulation.Cluster, j *batchv1.Job) {
	t.Helper()
	if _, err := c.Create(t.Context(), j); err != nil {
		t.Fatal(err)
	}
}

// outcome shows a Job's counts and its final condition.
func outcome(j *batchv1.Job) string {
	s := fmt.Sprintf("active=%d succeeded=%d failed=%d", j.Status.Active, j.Status.Succeeded, j.Status.Failed)
	if j.Status.CompletedIndexes != "" {
		s += " done=" + j.Status.CompletedIndexes
	}
	if f := j.Status.FailedIndexes; f != nil && *f != "" {
		s += " lost=" + *f
	}
	if c := final(j); c != nil {
		s += " " + string(c.Type) + " " + c.Reason
	}
	return s
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// fate makes all pods end a second after they started, as f says.
func fate(f func(p *corev1.Pod) corev1.PodPhase) func(c *simulation.Cluster) {
	return func(c *simulation.Cluster) {
		c.Fate = func(p *corev1.Pod) (corev1.PodPhase, time.Duration) { return f(p), time.Second }
	}
}

func always(phase corev1.PodPhase) func(c *simulation.Cluster) {
	return fate(func(*corev1.Pod) corev1.PodPhase { return phase })
}

func failing(indexes ...int) func(c *simulation.Cluster) {
	return fate(func(p *corev1.Pod) corev1.PodPhase {
		if slices.Contains(indexes, indexOf(p)) {
			return corev1.PodFailed
		}
		return corev1.PodSucceeded
	})
}

func TestOutcomes(t *testing.T) {
	deadline := int64(30)
	three, two := int32(3), int32(2)
	first := "0-1"
	for _, tc := range []struct {
		name    string
		cluster func(c *simulation.Cluster)
		job     *batchv1.Job
		want    string
	}{
		{"one", always(corev1.PodSucceeded), newJob(), "active=0 succeeded=1 failed=0 Complete CompletionsReached"},
		{"ten, three at a time", always(corev1.PodSucceeded), newJob(sized(10, 3)), "active=0 succeeded=10 failed=0 Complete CompletionsReached"},
		{"queue", always(corev1.PodSucceeded), newJob(func(j *batchv1.Job) { j.Spec.Parallelism = &three }), "active=0 succeeded=3 failed=0 Complete CompletionsReached"},
		{"always fails", always(corev1.PodFailed), newJob(limit(2)), "active=0 succeeded=0 failed=3 Failed BackoffLimitExceeded"},
		{"deadline", always(""), newJob(func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = &deadline }), "active=0 succeeded=0 failed=1 Failed DeadlineExceeded"},
		{"indexed", always(corev1.PodSucceeded), newJob(sized(7, 3), indexed), "active=0 succeeded=7 failed=0 done=0-6 Complete CompletionsReached"},
		{"nothing to do, and suspended", always(corev1.PodSucceeded), newJob(sized(0, 1), func(j *batchv1.Job) { j.Spec.Suspend = new(bool); *j.Spec.Suspend = true }),
			"active=0 succeeded=0 failed=0 Complete CompletionsReached"},
		{"limit per index", failing(1, 2), newJob(sized(5, 2), indexed, func(j *batchv1.Job) { j.Spec.BackoffLimitPerIndex = &two }),
			"active=0 succeeded=3 failed=6 done=0,3,4 lost=1,2 Failed FailedIndexes"},
		{"too many failed indexes", failing(0, 1, 2, 3, 4), newJob(sized(5, 1), indexed, func(j *batchv1.Job) {
			j.Spec.BackoffLimitPerIndex, j.Spec.MaxFailedIndexes = new(int32), new(int32)
		}), "active=0 succeeded=0 failed=1 lost=0 Failed MaxFailedIndexesExceeded"},
		{"success policy", fate(func(p *corev1.Pod) corev1.PodPhase {
			if indexOf(p) < 2 {
				return corev1.PodSucceeded
			}
			return "" // runs for ever
		}), newJob(sized(5, 5), indexed, limit(100), func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: &first}}}
		}), "active=0 succeeded=2 failed=0 done=0,1 Complete SuccessPolicy"},
	} {
		simulation.Run(t, tc.cluster, func(_ context.Context, c *simulation.Cluster) {
			create(t, c, tc.job)
			time.Sleep(2 * time.Hour)
			want(t, tc.name, outcome(get(c)), tc.want)
			for p := range client.List[corev1.Pod](c.View(), "ns") {
				if slices.Contains(p.Finalizers, tracking) || pods.Active(p) {
					t.Errorf("%s: pod %s is left: %s %v", tc.name, p.Name, p.Status.Phase, p.Finalizers)
				}
			}
			before := c.View().Revision()
			time.Sleep(time.Hour)
			if after := c.View().Revision(); after != before {
				t.Errorf("%s: %d writes after the end", tc.name, after-before)
			}
		}, Controller())
	}
}

func TestFailureBacksOff(t *testing.T) {
	var starts []time.Time
	prepare := func(c *simulation.Cluster) {
		always(corev1.PodFailed)(c)
		c.Fault = func(verb string, obj client.Object, _ string) error {
			if _, ok := obj.(*corev1.Pod); ok && verb == "create" {
				starts = append(starts, time.Now())
			}
			return nil
		}
	}
	simulation.Run(t, prepare, func(_ context.Context, c *simulation.Cluster) {
		create(t, c, newJob(limit(3)))
		time.Sleep(time.Hour)
		synctest.Wait()
		var gaps []string
		for i := 1; i < len(starts); i++ {
			gaps = append(gaps, starts[i].Sub(starts[i-1]).Round(time.Second).String())
		}
		want(t, "gaps (2 s run and the pause)", strings.Join(gaps, " "), "12s 22s 42s")
	}, Controller())
}

func TestSuspendAndResume(t *testing.T) {
	yes := true
	simulation.Run(t, always(""), func(_ context.Context, c *simulation.Cluster) {
		create(t, c, newJob(sized(3, 3), func(j *batchv1.Job) { j.Spec.Suspend = &yes }))
		set := func(suspend bool) {
			j := get(c).DeepCopy()
			j.Spec.Suspend, j.ResourceVersion = &suspend, ""
			if _, err := c.Update(t.Context(), j, ""); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
		}
		time.Sleep(time.Minute)
		want(t, "suspended", outcome(get(c)), "active=0 succeeded=0 failed=0")
		set(false)
		want(t, "resumed", outcome(get(c)), "active=3 succeeded=0 failed=0")
		set(true)
		want(t, "suspended again", outcome(get(c)), "active=0 succeeded=0 failed=0")
		if s := condition(&get(c).Status, batchv1.JobSuspended); s == nil || s.Status != corev1.ConditionTrue || get(c).Status.StartTime != nil {
			t.Errorf("status %+v", get(c).Status)
		}
	}, Controller())
}

func TestPodFailurePolicy(t *testing.T) {
	pod := func(code int32, disrupted bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p", Finalizers: []string{tracking}}}
		p.Status.Phase = corev1.PodFailed
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}}}
		if disrupted {
			simulation.SetCondition(p, corev1.DisruptionTarget, true)
		}
		return p
	}
	policy := &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
		{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}},
		{Action: batchv1.PodFailurePolicyActionFailJob, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}}},
		{Action: batchv1.PodFailurePolicyActionCount, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpNotIn, Values: []int32{7}}},
	}}
	for _, tc := range []struct {
		p    *corev1.Pod
		want string
	}{
		{pod(1, false), "counted 1"}, {pod(7, false), "counted 1"}, {pod(42, true), "counted 0"},
		{pod(42, false), "counted 1 PodFailurePolicy Container c for pod ns/p failed with exit code 42 matching FailJob rule at index 1"},
	} {
		w := &work{Job: newJob(func(j *batchv1.Job) { j.Spec.PodFailurePolicy = policy }), now: time.Now(), pods: []*corev1.Pod{tc.p}}
		w.observe()
		w.count()
		got := fmt.Sprint("counted ", w.failed())
		if w.stop != nil {
			got += " " + w.stop.reason + " " + w.stop.message
		}
		want(t, tc.want, got, tc.want)
	}
}

func TestTTL(t *testing.T) {
	ttl := int32(60)
	simulation.Run(t, always(corev1.PodSucceeded), func(_ context.Context, c *simulation.Cluster) {
		create(t, c, newJob(func(j *batchv1.Job) { j.Spec.TTLSecondsAfterFinished = &ttl }))
		time.Sleep(55 * time.Second)
		if get(c) == nil {
			t.Fatal("gone too early")
		}
		time.Sleep(20 * time.Second)
		if get(c) != nil || len(slices.Collect(client.List[corev1.Pod](c.View(), "ns"))) != 0 {
			t.Error("the Job or its pods are still there")
		}
	}, Controller(), TTL(), garbage.Controller(api.Builtin()))
}

// TestEveryEndIsCountedOnce deletes pods at any moment, finished or not.
func TestEveryEndIsCountedOnce(t *testing.T) {
	for seed := range uint64(5) {
		r := simulation.Random(seed)
		prepare := func(c *simulation.Cluster) {
			always(corev1.PodSucceeded)(c)
			c.Start = func(*corev1.Pod) time.Duration { return time.Duration(r.IntN(2000)) * time.Millisecond }
		}
		simulation.Run(t, prepare, func(ctx context.Context, c *simulation.Cluster) {
			create(t, c, newJob(sized(20, 4), limit(1000)))
			for range 60 {
				time.Sleep(time.Duration(r.IntN(1500)) * time.Millisecond)
				if list := slices.Collect(client.List[corev1.Pod](c.View(), "ns")); len(list) > 0 {
					_ = c.Delete(ctx, client.Row[corev1.Pod](), client.KeyOf(list[r.IntN(len(list))]), metav1.DeleteOptions{})
				}
			}
			time.Sleep(24 * time.Hour)
			j := get(c)
			if j.Status.Succeeded != 20 || final(j) == nil || final(j).Type != batchv1.JobComplete {
				t.Errorf("seed %d: %s", seed, outcome(j))
			}
		}, Controller())
	}
}

func TestIndexesText(t *testing.T) {
	for _, s := range []string{"", "0", "0,1", "0-2", "1,3-5,7", "2,3,9"} {
		want(t, s, parseIndexes(s, 100).String(), s)
	}
	want(t, "beyond", parseIndexes("1,98-200,x", 100).String(), "1,98,99")
}
